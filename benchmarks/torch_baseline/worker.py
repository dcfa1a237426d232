"""The worker that times the PyTorch baseline; `benchmark.throughput` starts it.

python -m benchmarks.torch_baseline.worker
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import torch_baseline as tb
from benchmarks.serve import serve
from benchmarks.task import Task

_SAMPLE = (slice(None), slice(None, None, 2), slice(None, None, 5)) + (slice(None, None, 8),) * 2


class _Section(NamedTuple):
    """How a section is timed.

    Attributes:
      operation: what it is called.
      run: what is timed.
      first: runs it for the first time, as long as `run` takes.
      check: from what `first` gave to what another framework must agree with.
    """

    operation: str
    run: Callable[[], Any]
    first: Callable[[], Any]
    check: Callable[[Any], dict[str, list[float]]]


class TorchJob:
    """A section of the task with the model under one of `tb.SETTINGS`.

    The whole network exists at full size only; `throughput` refuses another config before.
    """

    def __init__(self, task: Task):
        torch.set_num_threads(task.threads)
        self.task = task
        self.device = torch.device("cuda" if task.device == "gpu" else task.device)
        self._use_device()
        torch.manual_seed(task.config["seed"])
        model = tb.FineCausal(task.config["model"]["graph_scope"]).eval()
        tb.load_state(model, task.weights())
        self.model = tb.apply_setting(model.to(self.device), task.setting)
        self.dtype: torch.dtype = getattr(torch, task.config["model"]["dtype"])
        self._autocast = functools.partial(
            torch.autocast, self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        )
        self._operations: dict[str, Callable[[], Any]] = {}

    def _use_device(self) -> None:
        """Checks that the GPU is there, and lets all but the plain setting make the best of it."""
        if self.device.type == "cpu":
            return
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"--device={self.task.device}: PyTorch {torch.__version__} finds no GPU; look for "
                "one with nvidia-smi, and install a build of PyTorch for its driver's CUDA "
                "(https://pytorch.org/get-started)"
            )
        if self.task.setting != "reference":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")  # TF32, which XLA uses by default, too

    def operations(self) -> dict[str, Callable[[], Any]]:
        return self._operations

    def matmul(self) -> Callable[[], Any]:
        side = self.task.matmul_size
        values = np.random.default_rng(0).random((2, side, side), np.float32)
        first, second = (torch.from_numpy(x).to(self.device, self.dtype) for x in values)

        def run() -> Tensor:
            product = torch.matmul(first, second)
            self._wait()
            return product

        return run

    def peak_device_memory(self, *, reset: bool) -> tuple[int, str] | None:
        if self.device.type != "cuda":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats()
        method = "device memory in use, by PyTorch's allocator, reset after warm-up"
        return torch.cuda.max_memory_allocated(), method

    def prepare(self) -> dict[str, Any]:
        prepare = {"forward": self._forward, "train": self._train, "evaluation": self._evaluation}
        section = prepare[self.task.section]()
        # Counted in the plain setting alone: compiled code hides its operations.
        count = self.task.setting == "reference"
        start = time.perf_counter()
        if count:
            with FlopCounterMode(display=False) as counter:
                result = section.first()
            flops = {section.operation: float(counter.get_total_flops())}
        else:
            result, flops = section.first(), {}
        first_seconds = time.perf_counter() - start
        self._operations[section.operation] = section.run
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {
            "checks": section.check(result),
            "compile_seconds": {},
            "first_seconds": {section.operation: first_seconds},
            "flops": flops,
            "device": name,
            "versions": {"torch": torch.__version__},
        }

    def _forward(self) -> _Section:
        pairs = self.task.batch_size
        videos = self._videos(2 * pairs)
        query, exemplar = videos[:pairs].contiguous(), videos[pairs:].contiguous()

        @torch.no_grad()
        def run() -> Any:
            with self._autocast():
                out = self.model(query, exemplar)
            self._wait()
            return out

        def check(first: Any) -> dict[str, list[float]]:
            exact = self._exactly(run, first)
            names = ("delta", "transition_probability", "stage_delta_dynamic", "stage_delta_static")
            out = {name: getattr(exact, name) for name in names}
            out["mask"] = exact.mask_logits[-1][_SAMPLE]
            return {name: value.flatten().float().tolist() for name, value in out.items()}

        return _Section("forward", run, run, check)

    def _train(self) -> _Section:
        pairs, inputs = self.task.batch_size, self.task.inputs()
        train = self.task.config["train"]
        trainer = tb.Trainer(
            self.model,
            schedule=tb.Schedule(
                train["base_lr"],
                train["lr_factor"],
                train["schedule_epochs"],
                train["warmup_epochs"],
            ),
            accumulate=train["accumulate"],
            freeze_base=train["freeze_base"],
            dtype=self.dtype,
        )
        videos = self._videos(2 * pairs)
        completeness = torch.from_numpy(inputs["completeness"][: 2 * pairs]).to(self.device)
        mask = inputs["mask"][: 2 * pairs].astype(np.float32) / np.float32(255)
        batch = tb.Batch(
            query=videos[:pairs].contiguous(),
            exemplar=videos[pairs:].contiguous(),
            mask=torch.from_numpy(mask).to(self.device),
            transitions=torch.from_numpy(inputs["transitions"][: 2 * pairs]).to(self.device),
            query_completeness=completeness[:pairs],
            exemplar_completeness=completeness[pairs:],
        )

        def run() -> Any:
            losses = trainer.step(batch)
            self._wait()
            return losses

        def check(first: Any) -> dict[str, list[float]]:
            return {"loss_mask": [first.loss_mask.item()]}

        return _Section("train", run, run, check)

    def _evaluation(self) -> _Section:
        videos = self._videos(1 + self.task.exemplars)
        query, exemplars = videos[0], list(videos[1:])

        def score(chosen: list[Tensor]) -> float:
            with self._autocast():
                # Of completeness 0 and difficulty 1, so that a score is a mean of deltas.
                value = tb.score_dive(self.model, query, chosen, [0.0] * len(chosen), 1.0)
            self._wait()
            return value

        def each() -> list[float]:
            return [score([exemplar]) for exemplar in exemplars]

        def check(first: list[float]) -> dict[str, list[float]]:
            return {"delta": self._exactly(each, first)}

        # Compared exemplar by exemplar, which takes as long as all in one run.
        return _Section("score_dive", lambda: score(exemplars), each, check)

    def _exactly(self, run: Callable[[], Any], result: Any) -> Any:
        """What `run` gives without TF32, which a GPU may use; on a CPU, `result`, what it gave."""
        if self.device.type == "cpu":
            return result
        conv, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        try:
            return run()
        finally:
            torch.backends.cudnn.allow_tf32 = conv
            torch.set_float32_matmul_precision(matmul)

    def _videos(self, count: int) -> Tensor:
        """float32 [count, 3, t, h, w], in the default memory format."""
        frames = np.ascontiguousarray(np.moveaxis(self.task.inputs()["frames"][:count], -1, 1))
        return torch.from_numpy(frames).to(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    serve(TorchJob)
