"""What the segmenter starts from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from finecausal_jax.models import initial_values, segmenter
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.segmenter import SIDE_STRIDES, Segmenter


class Trunk(nn.Module):
    """Features of the full-size trunk's shapes, without its 57 convolutions."""

    width: float
    dtype: object
    remat: str
    plain: bool

    def __call__(self, clips, *, train):
        n, t, h, w, _ = clips.shape
        side = {}
        for (name, stride), channels in zip(SIDE_STRIDES.items(), (64, 192, 480, 832), strict=True):
            sizes = (size // step for size, step in zip((t, h, w), stride, strict=True))
            side[name] = jnp.zeros((n, *sizes, channels))
        return jnp.zeros((n, 1024)), side


class Alone(FineCausal):
    """The segmenter in the network's place."""

    def setup(self):
        self.segmenter = Segmenter()

    def __call__(self, query, exemplar):
        return self.segmenter(query, train=False)


def test_plain_convolutions_start_near_zero_and_their_biases_at_zero(monkeypatch):
    monkeypatch.setattr(segmenter, "I3D", Trunk)
    layers = [f"score_dsn{level}" for level in range(1, 5)]
    wanted = [f"params/segmenter/{name}/{leaf}" for name in layers for leaf in ("kernel", "bias")]
    wanted += ["params/segmenter/fuse/kernel", "params/segmenter/fuse/bias"]
    wanted += [f"params/segmenter/side_prep{level}/kernel" for level in range(1, 5)]
    found = initial_values.init_variables(Alone(frames=8), 16, jax.random.key(0), wanted)
    kernels = []
    for name, layer in found["params"]["segmenter"].items():
        kernels.append(np.ravel(layer["kernel"]))
        if not name.startswith("side_prep"):
            np.testing.assert_array_equal(layer["bias"], [0])
    kernels = np.concatenate(kernels)  # 25216 values: their spread is known to 0.5 %
    assert kernels.size == 16 * (64 + 192 + 480 + 832) + 4 * 16 + 64
    np.testing.assert_allclose(kernels.std(), 1e-3, rtol=0.02)
    assert abs(kernels.mean()) < 3e-5
