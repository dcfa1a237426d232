"""Trainings of the real network that are killed and stopped, against one that is not."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import numpy as np

from finecausal_jax.interop import workdirs
from tests.reliability import small

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).with_name("small.py")
PATIENCE_S = 600.0
# How a polite signal ends a training, and how a kill does.
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
# What is there while files are being replaced.
UNDER_WAY = ("checkpoints/*orbax-checkpoint-tmp*", ".*.partial", "checkpoints/*/.*.partial")


@dataclasses.dataclass(frozen=True)
class Ending:
    """How one start of the training ended.

    Attributes:
      number: of the signal that was sent.
      amid: "save" where it came while a file was being replaced, else "step".
      code: the exit code.
      step: the latest checkpoint then.
      seconds: from the start to the end.
      problem: what was wrong; empty for nothing.
    """

    number: int
    amid: str
    code: int
    step: int
    seconds: float
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Training:
    """A training that can be started again and again.

    Attributes:
      workdir: of the run; what it prints goes to a file beside it.
      data_dir: the built data set.
      epochs: of eight steps.
      cache: folder of compiled programs.
    """

    workdir: pathlib.Path
    data_dir: pathlib.Path
    epochs: int
    cache: pathlib.Path

    @property
    def last_step(self) -> int:
        """Where it ends."""
        return self.epochs * small.STEPS_PER_EPOCH

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it, in a process group of its own."""
        command = [
            *(sys.executable, "launch.py", "train", f"--config={CONFIG}:{self.epochs}"),
            *(f"--workdir={self.workdir}", f"--config.data.data_dir={self.data_dir}"),
            f"--config.train.compilation_cache={self.cache}",
        ]
        with self.workdir.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self) -> float:
        """Lets it go to the end; returns the seconds."""
        began = time.monotonic()
        code = self.start().wait()
        if code:
            raise RuntimeError(f"a training ended with {code}: {self.workdir.with_suffix('.log')}")
        return time.monotonic() - began


def interrupt(
    training: Training,
    signals: Sequence[int],
    seed: int,
    told: Callable[[Ending], None] = lambda ending: None,
) -> list[Ending]:
    """Starts a training once for each signal, sends it, and lets a last start go to the end.

    Args:
      training: which has not begun.
      signals: in this order.
      seed: fixes when they come, as far as a machine's pace allows.
      told: called with each ending.
    """
    rng = random.Random(seed)
    endings = []
    for index, number in enumerate(signals):
        ending = _stop(training, number, rng, amid_save=index % 3 == 2)
        endings.append(ending)
        told(ending)
    training.finish()
    return endings


def differences(workdir: pathlib.Path, unbroken: pathlib.Path, last_step: int) -> list[str]:
    """What a run that was broken off has other than one that was not."""
    problems = []
    names = ("variables", "optimiser")
    one, other = (workdirs.load_items(folder, last_step, names) for folder in (workdir, unbroken))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(one)]
    pairs = zip(paths, jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    wrong = [path for path, a, b in pairs if not np.array_equal(a, b)]
    if wrong:
        problems.append(f"{len(wrong)} of {len(paths)} arrays differ, such as {wrong[0]}")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for kind in ("train/loss", "test/spearman"):
        logged = [row["step"] for row in rows if kind in row]
        first = [json.loads(line) for line in (unbroken / "metrics.jsonl").open()]
        expected = [row["step"] for row in first if kind in row]
        if logged != expected:
            problems.append(f"metrics.jsonl has {kind} of steps {logged}, expected {expected}")
        drawn = [step for tag, step in _drawn(workdir) if tag == kind]
        if Counter(drawn) != Counter(expected):
            problems.append(f"TensorBoard has {kind} of steps {drawn}, expected {expected}")
    left = [path.name for place in UNDER_WAY for path in workdir.glob(place)]
    if left:
        problems.append(f"left behind: {left}")
    return problems


def _stop(training: Training, number: int, rng: random.Random, amid_save: bool) -> Ending:
    began, workdir = time.monotonic(), training.workdir
    before = _rows(workdir)
    process = training.start()
    # Steps have begun once a row is written that was not there.
    while process.poll() is None and _rows(workdir) <= before:
        if time.monotonic() - began > PATIENCE_S:
            os.killpg(process.pid, signal.SIGKILL)
            return Ending(number, "start", process.wait(), -1, PATIENCE_S, "did not begin")
        time.sleep(0.02)
    until = time.monotonic() + rng.uniform(0, 1)
    amid = "step"
    while process.poll() is None and time.monotonic() < until + (10 if amid_save else 0):
        if amid_save and any(True for place in UNDER_WAY for _ in workdir.glob(place)):
            amid = "save"
            break
        time.sleep(0 if amid_save else 0.01)
    if process.poll() is None:
        os.killpg(process.pid, number)
    code = process.wait(PATIENCE_S)
    finished = code == 0
    problem = "" if finished or code == CODES[number] else f"exit code {code}"
    return Ending(
        number, "end" if finished else amid, code, _step(workdir), time.monotonic() - began, problem
    )


def _rows(workdir: pathlib.Path) -> int:
    """Highest step in the metrics; -1 for none."""
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines), default=-1)


def _step(workdir: pathlib.Path) -> int:
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _drawn(workdir: pathlib.Path) -> list[tuple[str, int]]:
    """(tag, step) of every scalar in TensorBoard's files."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted((workdir / "tensorboard").glob("events.*")):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            found += [(value.tag, event.step) for value in event.summary.value]
    return found
