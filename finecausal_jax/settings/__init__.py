"""A config: its schema, how it is read, and the things that a command makes of it."""

from finecausal_jax.settings.config import default_config, read
from finecausal_jax.settings.schema import Settings

__all__ = ["Settings", "default_config", "read"]
