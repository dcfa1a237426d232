"""From the built data set to batches of tensors."""
