"""The recorded reference cases, held against the port."""
