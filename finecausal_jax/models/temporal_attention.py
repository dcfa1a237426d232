"""Temporal causal attention: earlier stages may influence later ones, never the reverse."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from finecausal_jax.models.layers import Dense, LayerNorm


class CausalSelfAttention(nn.Module):
    """Single-head self-attention over the stages under a lower-triangular mask.

    Attributes:
      dropout: rate on the attention weights.
      dtype: compute dtype; the softmax is float32.
    """

    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "v s d"], *, train: bool
    ) -> tuple[Float[Array, "v s d"], Float[Array, "v head s s"]]:
        def project(name: str, y: Array) -> Array:
            return Dense(x.shape[-1], dtype=self.dtype, name=f"{name}_projection")(y)

        query, key, value = (project(name, x) for name in ("query", "key", "value"))
        logits = jnp.einsum("vqd,vkd->vqk", query, key, preferred_element_type=jnp.float32)
        logits = logits * x.shape[-1] ** -0.5
        stages = x.shape[1]
        allowed = jnp.tril(jnp.ones((1, stages, stages), bool))
        weights = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), axis=-1)
        dropped = nn.Dropout(self.dropout, deterministic=not train)(weights)
        mixed = jnp.einsum("vqk,vkd->vqd", dropped.astype(self.dtype), value)
        return project("out", mixed), weights[:, None]


class EncoderLayer(nn.Module):
    """Post-norm encoder layer: attention, then a feed-forward of four times the width (GELU)."""

    attention_dropout: float = 0.1
    dropout: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "v s d"], *, train: bool
    ) -> tuple[Float[Array, "v s d"], Float[Array, "v head s s"]]:
        def drop(y: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        width = x.shape[-1]
        attention = CausalSelfAttention(self.attention_dropout, self.dtype, name="attention")
        mixed, weights = attention(x, train=train)
        x = LayerNorm(self.dtype, name="norm1")(x + drop(mixed))
        # Named as in released checkpoints, where these linear layers are convolutions of size 1.
        y = drop(
            jax.nn.gelu(Dense(4 * width, dtype=self.dtype, name="conv1")(x), approximate=False)
        )
        y = drop(Dense(width, dtype=self.dtype, name="conv2")(y))
        return LayerNorm(self.dtype, name="norm2")(x + y), weights


class TemporalCausalAttention(nn.Module):
    """Encoder over one vector a stage.

    Attributes:
      layers: encoder layers.
      attention_dropout: rate on the attention weights.
      dropout: rate elsewhere.
      dtype: compute dtype.
    """

    layers: int = 2
    attention_dropout: float = 0.1
    dropout: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, stages: Float[Array, "v s d"], *, train: bool
    ) -> tuple[Float[Array, "v s d"], Float[Array, "v layer head s s"]]:
        """Lets each stage attend to itself and to earlier ones.

        Args:
          stages: one vector a stage [v, 3, 64], in the order of time.
          train: whether dropout is on (key collection "dropout").

        Returns:
          temporal_feature [v, 3, 64] and temporal_attention [v, layer, head, to, from].
        """
        x, attention = stages.astype(self.dtype), []
        for index in range(self.layers):
            layer = EncoderLayer(
                self.attention_dropout, self.dropout, self.dtype, name=f"layer_{index}"
            )
            x, weights = layer(x, train=train)
            attention.append(weights)
        x = LayerNorm(self.dtype, name="norm")(x)
        return x.astype(jnp.float32), jnp.stack(attention, axis=1)
