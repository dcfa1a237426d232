"""Compiles the network for hardware that is not there: what fits, what moves, how long at least."""
