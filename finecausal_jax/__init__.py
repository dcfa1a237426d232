"""FineCausal in JAX: scores a dive from video by comparison with exemplar dives, and shows why.

The public names are imported when they are first asked for, so that importing the package loads no
JAX and commands answer at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finecausal_jax.interop.pytorch import from_pytorch as from_pytorch
    from finecausal_jax.models.finecausal import FineCausal as FineCausal
    from finecausal_jax.models.outputs import Features as Features
    from finecausal_jax.models.outputs import Outputs as Outputs
    from finecausal_jax.scoring.scorer import Scorer as Scorer

_HOMES = {
    "Features": "finecausal_jax.models.outputs",
    "FineCausal": "finecausal_jax.models.finecausal",
    "Outputs": "finecausal_jax.models.outputs",
    "Scorer": "finecausal_jax.scoring.scorer",
    "from_pytorch": "finecausal_jax.interop.pytorch",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
