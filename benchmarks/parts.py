"""Profiles the network part by part: where a forward pass and a training step spend their time.

    python -m benchmarks.parts [--rounds=3] [--json=FILE]

Each part is compiled by itself at full size for one pair, with random weights, and told beside the
machine's own matrix product: its share of that says how much is left to gain.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.xla_worker import plain_flops
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.i3d import I3D
from finecausal_jax.models.segmenter import Segmenter
from finecausal_jax.models.static_encoder import ResNet34

VIDEOS = 2  # one pair
SIDE = 112  # of a frame, pixels
PEAK_SIDE = 2048  # rows of the matrices whose product gives the peak


class Part(NamedTuple):
    """A part of the network.

    Attributes:
      name: for people.
      outputs: what it computes, from variables and `x`; with True as training runs it, where
        BatchNorm uses batch statistics in all but the base trunk.
      x: its input; an argument, since XLA would compute with a constant while compiling.
      shapes: of its variables.
    """

    name: str
    outputs: Callable[[Any, jax.Array, bool], Any]
    x: jax.Array
    shapes: Any


def parts() -> Iterator[Part]:
    """The parts in the order of the forward pass, each ready for one pair."""
    key, model = jax.random.key(0), FineCausal()
    clips = _random((VIDEOS * model.windows, model.window_frames, SIDE, SIDE, 3))
    frames = _random((VIDEOS * model.frames, SIDE, SIDE, 3))

    def part(
        name: str, module: Any, pick: Callable[[Any], Any], x: Any, *, frozen: bool, **options: Any
    ) -> Part:
        def init() -> Any:
            return module.init(key, x, train=False, **options)

        def outputs(variables: Any, x: jax.Array, train: bool) -> Any:
            mode = {"train": train and not frozen, **options}
            return pick(module.apply(variables, x, **mode, mutable=["batch_stats"])[0])

        return Part(name, outputs, x, jax.eval_shape(init))

    yield part("base trunk", I3D(), lambda out: out[0], clips, frozen=True)
    yield part("segmenter, fused map", Segmenter(), lambda out: out[1][-1], clips, frozen=False)
    yield part("segmenter, five maps", Segmenter(), lambda out: out, clips, frozen=False)
    yield part("static encoder", ResNet34(), lambda out: out, frames, frozen=False, runs=2)


def profile(part: Part, rounds: int, peak: float) -> list[dict[str, Any]]:
    """Times a part's forward pass, and the same with the gradient by all parameters.

    Args:
      part: from `parts`.
      rounds: timed runs after the first one.
      peak: floating point operations a second of a matrix product.

    Returns:
      Two rows {"part", "pass", "seconds" (median), "gflop", "share_of_peak", "temporary_gb",
      "compile_seconds"}; a row of "forward and backward" includes the forward pass.
    """
    variables = jax.tree.map(lambda s: _random(s.shape) * 0.01 + 0.01, part.shapes)

    def total(params: Any, stats: Any, x: jax.Array, train: bool = False) -> jax.Array:
        out = part.outputs({"params": params, "batch_stats": stats}, x, train)
        return sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(out))

    arguments = variables["params"], variables["batch_stats"], part.x
    rows = []
    training = jax.grad(functools.partial(total, train=True))
    for title, function in (("forward", total), ("forward and backward", training)):
        traced = jax.jit(function).trace(*arguments)
        lowered = traced.lower()
        start = time.perf_counter()
        compiled = lowered.compile()
        compile_seconds = time.perf_counter() - start
        seconds = _median_seconds(lambda: compiled(*arguments), rounds)  # noqa: B023
        flop = plain_flops(traced)
        rows.append(
            {
                "part": part.name,
                "pass": title,
                "seconds": seconds,
                "gflop": flop / 1e9,
                "share_of_peak": flop / seconds / peak,
                "temporary_gb": compiled.memory_analysis().temp_size_in_bytes / 1e9,
                "compile_seconds": compile_seconds,
            }
        )
    return rows


def matmul_peak(rounds: int) -> float:
    """Floating point operations a second of a square float32 matrix product."""
    first, second = _random((PEAK_SIDE, PEAK_SIDE)), _random((PEAK_SIDE, PEAK_SIDE))
    product = jax.jit(jnp.matmul)
    return 2 * PEAK_SIDE**3 / _median_seconds(lambda: product(first, second), max(rounds, 5))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a part and pass, and writes them as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each pass")
    parser.add_argument("--json", type=pathlib.Path, help="file for the results")
    options = parser.parse_args(arguments)
    peak = matmul_peak(options.rounds)
    print(f"{jax.devices()[0].device_kind}: a matrix product runs at {peak / 1e9:.0f} GFLOP/s")
    print(f"{'s':>7} {'GFLOP':>7} {'of peak':>8} {'temp GB':>8} {'compile s':>10}  what")
    results = []
    for part in parts():
        for row in profile(part, options.rounds, peak):
            results.append(row)
            print(
                f"{row['seconds']:7.2f} {row['gflop']:7.0f} {100 * row['share_of_peak']:6.0f} % "
                f"{row['temporary_gb']:8.2f} {row['compile_seconds']:10.1f}  "
                f"{row['part']}, {row['pass']}",
                flush=True,
            )
    if options.json:
        whole = {"matmul_gflops": peak / 1e9, "rows": results}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")


def _random(shape: Sequence[int]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).random(shape, np.float32))


def _median_seconds(run: Callable[[], Any], rounds: int) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
