"""Training: the state, its losses and steps as pure functions, and the loop around them."""
