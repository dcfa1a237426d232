"""What the port's speed is measured with; importing it imports neither JAX nor PyTorch."""
