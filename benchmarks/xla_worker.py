"""The worker that times this project's network; `throughput` starts it.

python -m benchmarks.xla_worker
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.serve import serve
from benchmarks.task import Task, built_data_sets
from finecausal_jax.data import pipeline
from finecausal_jax.data.batches import Batches
from finecausal_jax.interop.pytorch import from_pytorch
from finecausal_jax.runtime.layout import NO_DEVICE, make_layout
from finecausal_jax.runtime.memory import planned_memory
from finecausal_jax.scoring.features import compare_batch, encode_batch
from finecausal_jax.settings import things
from finecausal_jax.training.state import init_state

_SAMPLE = (slice(None), slice(None, None, 2), slice(None, None, 5)) + (slice(None, None, 8),) * 2
_PIPELINE_BATCHES = 8  # a run of the input pipeline


def plain_flops(traced: Any) -> float:
    """Floating point operations of a traced function, each convolution counted as it is written.

    That is how a TPU would compute it. A CPU gets there with fewer multiplications (Winograd's
    algorithm), in loops, of which XLA's analysis counts one round.
    """
    lowered = traced.lower(lowering_platforms=("tpu",))
    return float((lowered.cost_analysis() or {}).get("flops", 0.0))


class _XlaJob:
    """What the sections have in common."""

    def __init__(self, task: Task):
        self.task = task
        self.settings = task.settings()
        self.model = things.make_model(self.settings)
        self._operations: dict[str, Callable[[], Any]] = {}
        self._planned: list[int] = []
        self._report: dict[str, Any] = {
            "compile_seconds": {},
            "first_seconds": {},
            "flops": {},
            "temporary_bytes": {},
            "checks": {},
            "device": _first_device(task.device).device_kind,
            "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        }

    def operations(self) -> dict[str, Callable[[], Any]]:
        return self._operations

    def matmul(self) -> Callable[[], Any]:
        side = self.task.matmul_size
        values = np.random.default_rng(0).random((2, side, side), np.float32)
        dtype = self.settings.model.dtype
        first, second = (jax.device_put(jnp.asarray(value, dtype)) for value in values)
        product = jax.jit(jnp.matmul)
        return lambda: jax.block_until_ready(product(first, second))

    def peak_device_memory(self, *, reset: bool) -> tuple[int, str] | None:
        # XLA's allocators cannot reset their mark, which the checks in full precision and the
        # matrix product would raise.
        del reset
        if self.task.device == "cpu" or not self._planned:
            return None
        return max(self._planned), "device memory of the largest program, by XLA's plan"

    def _variables(self) -> Any:
        return from_pytorch(self.task.weights(), model=self.model, where="benchmark weights")

    def _compile(self, name: str, function: Any, *arguments: Any) -> Any:
        """Compiles for the arguments' shapes; notes how long it took, FLOPs and memory of a run."""
        start = time.perf_counter()
        traced = function.trace(*arguments)
        seconds = time.perf_counter() - start
        # Before compiling, which takes up again what this leaves of the heap.
        flops = plain_flops(traced)
        if flops:
            self._report["flops"][name] = flops
        start = time.perf_counter()
        compiled = traced.lower().compile()
        self._report["compile_seconds"][name] = seconds + time.perf_counter() - start
        planned = planned_memory(compiled)
        if planned:
            self._planned.append(planned["total"])
            self._report["temporary_bytes"][name] = planned["temporaries"]
        jax.clear_caches()  # as `compile_step` does
        return compiled

    def _first(self, name: str, run: Callable[[], Any]) -> Any:
        """Makes `run` an operation and runs it once."""
        start = time.perf_counter()
        result = run()
        self._report["first_seconds"][name] = time.perf_counter() - start
        self._operations[name] = run
        return result

    def _is_inexact(self) -> bool:
        """Whether the device shortens float32 products unless told otherwise."""
        return self.task.device != "cpu"


class Forward(_XlaJob):
    """A batch of pairs, from normalised frames to scores, transitions and the fused mask."""

    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """The jitted forward pass and its arguments, on the device."""
        pairs = self.task.batch_size
        frames = self.task.inputs()["frames"]
        arguments = jax.device_put((self._variables(), frames[:pairs], frames[pairs : 2 * pairs]))
        return jax.jit(functools.partial(_forward, self.model)), arguments

    def prepare(self) -> dict[str, Any]:
        function, arguments = self.program()
        with jax.default_matmul_precision("highest"):  # TF32 would fail the check
            checked = function.lower(*arguments).compile() if self._is_inexact() else None
        compiled = self._compile("forward", function, *arguments)
        out = self._first("forward", lambda: jax.block_until_ready(compiled(*arguments)))
        out = jax.device_get(out if checked is None else checked(*arguments))
        out["mask"] = out["mask"][_SAMPLE]
        self._report["checks"] = {name: np.ravel(x).tolist() for name, x in out.items()}
        return self._report


class Train(_XlaJob):
    """A training step: forward, backward and Adam's update, with dropout."""

    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """The jitted step and its arguments (state, batch, key), on the device; it takes the place
        of the state."""
        layout = make_layout(jax.devices()[:1])
        step, optimiser = things.make_training_step(self.settings, 1126, layout)
        state = layout.place(init_state(self._variables(), optimiser))
        batch = layout.place_batch(self._batch())
        key = jax.device_put(jax.random.key(self.settings.seed), layout.whole)
        return step, (state, batch, key)

    def prepare(self) -> dict[str, Any]:
        step, (state, batch, key) = self.program()
        compiled = self._compile("train", step, state, batch, key)

        def run() -> Any:
            nonlocal state
            state, losses = compiled(state, batch, key)
            jax.block_until_ready((state, losses))
            return losses

        losses = self._first("train", run)
        self._report["checks"] = {"loss_mask": [float(losses.loss_mask)]}
        return self._report

    def _batch(self) -> dict[str, Any]:
        inputs, pairs = self.task.inputs(), self.task.batch_size
        names = ("mask", "transitions", "completeness")
        videos = {"frames": inputs["frames_uint8"], **{name: inputs[name] for name in names}}
        return {
            "query": {name: value[:pairs] for name, value in videos.items()},
            "exemplar": {name: value[pairs : 2 * pairs] for name, value in videos.items()},
        }


class Evaluation(_XlaJob):
    """The parts of the test protocol, and a new dive against a stored bank.

    What runs are the protocol's own functions: pixels to features and counts, features to deltas.
    """

    def prepare(self) -> dict[str, Any]:
        task, inputs = self.task, self.task.inputs()
        model = self.model.clone(graph_scope="pair")  # a score must not depend on its batch
        variables = jax.device_put(self._variables())
        videos = jax.device_put(inputs["frames_uint8"][: 1 + task.exemplars])
        masks = jax.device_put(inputs["mask"][: 1 + task.exemplars])
        encode = jax.jit(functools.partial(encode_batch, model))
        compare = jax.jit(functools.partial(_compare, model))

        def features_by(one: Any) -> tuple[Any, Any]:
            """The query's and the exemplars'."""
            features = [
                jax.device_get(one(variables, videos[i : i + 1], masks[i : i + 1]))[0]
                for i in range(1 + task.exemplars)
            ]
            return features[0], jax.tree.map(lambda *rows: np.concatenate(rows), *features[1:])

        one = self._compile("encode_one", encode, variables, videos[:1], masks[:1])
        # On the host, as a bank is stored: moving it to the device belongs to a comparison.
        query, bank = features_by(one)
        pairs = self._compile("compare", compare, variables, query, bank)
        batch = max(1, min(task.video_batch, len(videos)))
        several = one
        if batch > 1:
            several = self._compile(
                "encode_batch", encode, variables, videos[:batch], masks[:batch]
            )
        self._report["video_batch"] = batch

        def new_dive() -> np.ndarray:
            encoded, _ = one(variables, videos[:1], masks[:1])
            return np.asarray(pairs(variables, encoded, bank))

        self._first(
            "encode_batch",
            lambda: jax.device_get(several(variables, videos[:batch], masks[:batch])),
        )
        self._first("compare", lambda: np.asarray(pairs(variables, query, bank)))
        deltas = self._first("new_dive", new_dive)
        if self._is_inexact():
            with jax.default_matmul_precision("highest"):
                exact_one = encode.lower(variables, videos[:1], masks[:1]).compile()
                exact_pairs = compare.lower(variables, query, bank).compile()
            deltas = np.asarray(exact_pairs(variables, *features_by(exact_one)))
        self._report["checks"] = {"delta": deltas.tolist()}
        return self._report


class Pipeline(_XlaJob):
    """Reading, decoding and cutting of pairs for training, from the built data sets.

    Without worker processes, one thread reads each builder config that is built, in turn. With
    them, whose start would count otherwise, only the one of `config.data.stored` is read.
    """

    def prepare(self) -> dict[str, Any]:
        for stored in built_data_sets(self.task.config):
            data = dataclasses.replace(self.settings.data, stored=stored)
            settings = dataclasses.replace(self.settings, data=data)
            batches = pipeline.training_batches(
                things.open_dives(settings)["train"],
                things.make_preprocessing(settings),
                batch_size=self.task.batch_size,
                seed=settings.seed,
                workers=data.workers,
            )
            # Nothing is loaded ahead where two sets take turns: it would count for the other.
            load = functools.partial(next, batches) if data.workers else _loader(batches)
            self._first(stored, functools.partial(_repeat, load))
        self._report["pairs_a_run"] = _PIPELINE_BATCHES * self.task.batch_size
        return self._report


def _first_device(device: str) -> jax.Device:
    """The device that is timed; raises RuntimeError, with what to install, where there is none."""
    try:
        return jax.devices()[0]
    except NO_DEVICE as error:
        extra = {"gpu": "cuda12", "tpu": "tpu"}.get(device)
        mend = f"; install JAX for it with pip install -e '.[{extra}]'" if extra else ""
        raise RuntimeError(
            f"--device={device}: JAX finds no such device{mend}; it says: {str(error) or 'nothing'}"
        ) from error


def _loader(batches: Batches) -> Callable[[], Any]:
    numbers = itertools.count()
    return lambda: batches.load(next(numbers))


def _repeat(load: Callable[[], Any]) -> None:
    for _ in range(_PIPELINE_BATCHES):
        load()


def _forward(model: Any, variables: Any, query: jax.Array, exemplar: jax.Array) -> dict[str, Any]:
    out = model.apply(variables, query, exemplar)
    names = ("delta", "transition_probability", "stage_delta_dynamic", "stage_delta_static")
    # With the mask, or XLA would leave out the segmenter's decoder, which PyTorch cannot.
    return {name: getattr(out, name) for name in names} | {"mask": out.mask_logits[-1]}


def _compare(model: Any, variables: Any, query: Any, bank: Any) -> jax.Array:
    """Deltas [m] of one query against a bank of m exemplars."""
    m = len(bank.video_feature)
    queries = jax.tree.map(lambda x: jnp.repeat(x, m, axis=0), query)
    return compare_batch(model, variables, queries, bank).delta


def make_job(task: Task) -> _XlaJob:
    """The job of the task's section."""
    jobs = {"forward": Forward, "train": Train, "evaluation": Evaluation, "pipeline": Pipeline}
    return jobs[task.section](task)


if __name__ == "__main__":
    serve(make_job)
