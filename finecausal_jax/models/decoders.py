"""Pairwise decoders: one video's tokens of a stage look at the other video's."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from finecausal_jax.models.layers import Dense, LayerNorm


class CrossAttention(nn.Module):
    """Multi-head attention from query tokens to memory tokens; only the output has a bias."""

    heads: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query: Float[Array, "*b q d"], memory: Float[Array, "*b k d"]
    ) -> Float[Array, "*b q d"]:
        width = query.shape[-1]

        def project(name: str, x: Array) -> Array:
            y = Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)
            return y.reshape(*x.shape[:-1], self.heads, width // self.heads)

        q, k, v = project("q_map", query), project("k_map", memory), project("v_map", memory)
        logits = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * (width // self.heads) ** -0.5, axis=-1)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights.astype(self.dtype), v)
        return Dense(width, dtype=self.dtype, name="proj")(mixed.reshape(query.shape))


class FeedForward(nn.Module):
    """Two linear layers of four times the width, with GELU between."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b q d"]) -> Float[Array, "*b q d"]:
        width = x.shape[-1]
        hidden = Dense(4 * width, dtype=self.dtype, name="fc1")(x)
        hidden = jax.nn.gelu(hidden, approximate=False)
        return Dense(width, dtype=self.dtype, name="fc2")(hidden)


class DecoderLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward, each with a residual."""

    heads: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query: Float[Array, "*b q d"], memory: Float[Array, "*b k d"]
    ) -> Float[Array, "*b q d"]:
        def norm(name: str, x: Array) -> Array:
            return LayerNorm(self.dtype, name=name)(x)

        attend = CrossAttention(self.heads, self.dtype, name="attn")
        query = query + attend(norm("norm_q", query), norm("norm_v", memory))
        return query + FeedForward(self.dtype, name="mlp")(norm("norm2", query))


class PairDecoder(nn.Module):
    """Decoder layers over query tokens [..., q, 64]; the memory [..., k, 64] stays as it is."""

    layers: int = 3
    heads: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query: Float[Array, "*b q d"], memory: Float[Array, "*b k d"]
    ) -> Float[Array, "*b q d"]:
        query, memory = query.astype(self.dtype), memory.astype(self.dtype)
        for index in range(self.layers):
            query = DecoderLayer(self.heads, self.dtype, name=f"layer_{index}")(query, memory)
        return query
