"""The network, as pure Flax Linen modules: one family of layers a file."""
