"""FineCausal in JAX: scores a dive from video by comparison with exemplar dives, and shows why."""

from finecausal_jax.interop.pytorch import from_pytorch
from finecausal_jax.models.finecausal import Features, FineCausal, Outputs

__all__ = ["Features", "FineCausal", "Outputs", "from_pytorch"]
