"""Times each optimisation of the network against the plain way, both in one process, in turn.

    python -m benchmarks.lowerings [--rounds=5] [--json=FILE]

Every comparison computes the same numbers in two ways, at the sizes of one full-size pair, and is
refused where they differ by more than rounding. What `docs/performance.md` says was gained comes
from here.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from finecausal_jax.lowering.batch_norm import batch_norm
from finecausal_jax.lowering.convolution import convolve
from finecausal_jax.lowering.pool import max_pool
from finecausal_jax.lowering.rectified import value_of
from finecausal_jax.lowering.upsample import upsample
from finecausal_jax.models.layers import NORM_EPSILON
from finecausal_jax.runtime.errors import InputError

CLIPS = 18  # two videos of nine windows
ROUNDING = 2e-4  # of the largest value: float32 sums of up to a million products, reordered


class Comparison(NamedTuple):
    """One computation in two ways; both take `arrays`.

    Attributes:
      name: what is compared.
      plain: the straightforward form.
      ours: what the network uses.
      arrays: shapes of the arguments, filled with normal random numbers.
    """

    name: str
    plain: Callable[..., Any]
    ours: Callable[..., Any]
    arrays: tuple[tuple[int, ...], ...]


def comparisons() -> list[Comparison]:
    """All comparisons, in the order of the forward pass."""
    one, half, same = (1, 1, 1), (2, 2, 2), ((1, 1),) * 3
    stem_pad = ((2, 3),) * 3
    clip = (CLIPS, 16, 112, 112, 3)
    early, mixed = (CLIPS, 8, 28, 28, 64), (CLIPS, 8, 14, 14, 128)

    def conv(x: Any, kernel: Any, plain: bool = False) -> Any:
        return convolve(x, kernel, one, same, plain=plain)

    def stem(x: Any, kernel: Any, plain: bool = False) -> Any:
        return convolve(x, kernel, half, stem_pad, plain=plain)

    def as_written(form: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(form, plain=True)

    def by_kernel(form: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda kernel, x, y: jnp.vdot(form(x, kernel), y))

    def by_input(form: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda x, kernel, y: jnp.vdot(form(x, kernel), y))

    def normalized(x: Any, scale: Any, bias: Any, plain: bool = False) -> Any:
        return value_of(batch_norm(x, scale, bias, NORM_EPSILON, plain=plain)[0])

    def of_norm(form: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda x, scale, bias, y: jnp.vdot(form(x, scale, bias), y))

    def pool(x: Any, plain: bool = False) -> Any:
        return max_pool(x, (3, 3, 3), one, same, plain=plain)

    def of_pool(form: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda x, y: jnp.vdot(form(x), y))

    stride = (4, 16, 16)
    coarse, wide = (CLIPS, 4, 7, 7, 16), (8, 32, 32, 16, 16)

    def plain_fusion(x: Any, kernel: Any, fuse: Any) -> Any:
        return upsample(x, kernel, stride) @ fuse

    def folded_fusion(x: Any, kernel: Any, fuse: Any) -> Any:
        return upsample(x, jnp.einsum("dhwio,op->dhwip", kernel, fuse), stride)

    def enlarged(x: Any, kernel: Any, plain: bool = False) -> Any:
        return upsample(x, kernel, stride, plain=plain)

    def normed(x: Any, kernel: Any, scale: Any, bias: Any, mean: Any, root: Any) -> Any:
        y = (conv(x, kernel) - _spread(mean)) * lax.rsqrt(_spread(root**2) + NORM_EPSILON)
        return jax.nn.relu(y * _spread(scale) + _spread(bias))

    def folded(x: Any, kernel: Any, scale: Any, bias: Any, mean: Any, root: Any) -> Any:
        factor = scale * lax.rsqrt(root**2 + NORM_EPSILON)
        return jax.nn.relu(conv(x, kernel * _spread(factor)) + _spread(bias - mean * factor))

    small = (3, 3, 3, 64, 192)
    middle = (3, 3, 3, 128, 192)
    out = (*early[:4], 192)
    mixed_out = (*mixed[:4], 192)
    return [
        Comparison(
            "stem: space-to-depth and Winograd / direct",
            as_written(stem),
            stem,
            (clip, (7, 7, 7, 3, 64)),
        ),
        Comparison("3x3x3 at 28 x 28: Winograd / direct", as_written(conv), conv, (early, small)),
        Comparison("3x3x3 at 14 x 14: Winograd / direct", as_written(conv), conv, (mixed, middle)),
        Comparison(
            "gradient by the input, 28 x 28: Winograd / direct",
            by_input(as_written(conv)),
            by_input(conv),
            (early, small, out),
        ),
        Comparison(
            "gradient by the kernel, 28 x 28: Winograd / direct",
            by_kernel(as_written(conv)),
            by_kernel(conv),
            (small, early, out),
        ),
        Comparison(
            "gradient by the kernel, 14 x 14: Winograd / direct",
            by_kernel(as_written(conv)),
            by_kernel(conv),
            (middle, mixed, mixed_out),
        ),
        Comparison(
            "BatchNorm folded into the kernel / after it",
            normed,
            folded,
            (early, small, *[(192,)] * 4),
        ),
        Comparison(
            "gradient of BatchNorm by batch statistics: two sums / autodiff",
            of_norm(as_written(normalized)),
            of_norm(normalized),
            ((CLIPS * 8 * 56 * 56, 64), (64,), (64,), (CLIPS * 8 * 56 * 56, 64)),
        ),
        Comparison("max pool 3x3x3 along axes / reduce_window", as_written(pool), pool, (mixed,)),
        Comparison(
            "gradient of the pool: dense / select-and-scatter",
            of_pool(as_written(pool)),
            of_pool(pool),
            (mixed, mixed),
        ),
        Comparison(
            "upsampling 4 x 16 x 16: 2 taps and depth-to-space / transposed convolution",
            as_written(enlarged),
            enlarged,
            (coarse, (8, 32, 32, 16, 1)),
        ),
        Comparison(
            "fusion folded into upsampling / after it",
            plain_fusion,
            folded_fusion,
            (coarse, wide, (16, 1)),
        ),
        Comparison(
            "gradient of upsampling: 2 taps / transposed convolution",
            by_kernel(as_written(enlarged)),
            by_kernel(enlarged),
            ((8, 32, 32, 16, 1), coarse, (CLIPS, 16, 112, 112, 1)),
        ),
    ]


def measure(comparison: Comparison, rounds: int) -> dict[str, Any]:
    """Times both forms in turn.

    Args:
      comparison: what to time.
      rounds: timed runs of each, after one that compiles.

    Returns:
      {"name", "plain_seconds", "ours_seconds", "ratio", "error"}; medians, plain over ours, and the
      largest difference relative to the largest value.

    Raises:
      InputError: the two forms disagree.
    """
    random = np.random.default_rng(0)
    arrays = [jnp.asarray(random.standard_normal(s), jnp.float32) for s in comparison.arrays]
    forms = [jax.jit(comparison.plain), jax.jit(comparison.ours)]
    first, second = (jax.block_until_ready(form(*arrays)) for form in forms)
    error = float(jnp.max(jnp.abs(first - second)) / jnp.max(jnp.abs(first)))
    if not error <= ROUNDING:
        raise InputError(
            f"{comparison.name}: the two forms differ by {error:.1e} of the largest value, more "
            f"than rounding ({ROUNDING:.0e}); a gain on a wrong result is none"
        )
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for form, seconds in zip(forms, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(form(*arrays))
            seconds.append(time.perf_counter() - start)
    plain, ours = (statistics.median(seconds) for seconds in times)
    return {
        "name": comparison.name,
        "plain_seconds": plain,
        "ours_seconds": ours,
        "ratio": plain / ours,
        "error": error,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a comparison, and writes them as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each form")
    parser.add_argument("--json", type=pathlib.Path, help="file for the results")
    options = parser.parse_args(arguments)
    print(f"{'plain s':>8} {'ours s':>8} {'gain':>6}  what ({jax.devices()[0].device_kind})")
    results = []
    for comparison in comparisons():
        result = measure(comparison, options.rounds)
        results.append(result)
        print(
            f"{result['plain_seconds']:8.3f} {result['ours_seconds']:8.3f} "
            f"{result['ratio']:5.1f}x  {result['name']}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _spread(values: Any) -> Any:
    return jnp.expand_dims(values, range(4))


if __name__ == "__main__":
    main()
