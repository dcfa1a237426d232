"""Temporal attention: causal by default, so that earlier stages influence later ones alone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from finecausal_jax.models.layers import Dense, LayerNorm


class CausalSelfAttention(nn.Module):
    """Single-head self-attention over the stages under a mask.

    Attributes:
      dropout: rate on the attention weights.
      dtype: compute dtype; the softmax is float32.
    """

    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "v s d"], allowed: Bool[np.ndarray, "s s"], *, train: bool
    ) -> tuple[Float[Array, "v s d"], Float[Array, "v head s s"]]:
        def project(name: str, y: Array) -> Array:
            return Dense(x.shape[-1], dtype=self.dtype, name=f"{name}_projection")(y)

        query, key, value = (project(name, x) for name in ("query", "key", "value"))
        logits = jnp.einsum("vqd,vkd->vqk", query, key, preferred_element_type=jnp.float32)
        logits = logits * x.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(allowed[None], logits, -jnp.inf), axis=-1)
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
        self, x: Float[Array, "v s d"], allowed: Bool[np.ndarray, "s s"], *, train: bool
    ) -> tuple[Float[Array, "v s d"], Float[Array, "v head s s"]]:
        def drop(y: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        width = x.shape[-1]
        attention = CausalSelfAttention(self.attention_dropout, self.dtype, name="attention")
        mixed, weights = attention(x, allowed, train=train)
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
        self, stages: Float[Array, "v s d"], allowed: Bool[np.ndarray, "s s"], *, train: bool
    ) -> tuple[Float[Array, "v s d"], Float[Array, "v layer head s s"]]:
        """Lets each stage attend to the stages that it may.

        Args:
          stages: one vector a stage [v, 3, 64], in the order of time.
          allowed: whether a stage attends to another, [to, from]; from `causal_graph.stage_edges`.
          train: whether dropout is on (key collection "dropout").

        Returns:
          temporal_feature [v, 3, 64] and temporal_attention [v, layer, head, to, from].
        """
        x, attention = stages.astype(self.dtype), []
        for index in range(self.layers):
            layer = EncoderLayer(
                self.attention_dropout, self.dropout, self.dtype, name=f"layer_{index}"
            )
            x, weights = layer(x, allowed, train=train)
            attention.append(weights)
        x = LayerNorm(self.dtype, name="norm")(x)
        return x.astype(jnp.float32), jnp.stack(attention, axis=1)
