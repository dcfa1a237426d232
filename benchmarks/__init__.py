"""What the port's speed is measured with; importing it does not import PyTorch."""
