"""The starting side of the benchmark's workers: processes that are asked one thing at a time."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from finecausal_jax.runtime.errors import InputError

_PATIENCE_S = 3600.0  # for one answer: full-size compilations take minutes on a slow machine
_LAST_LINES = 5  # of a dead worker's standard error that its epitaph repeats
_LESS_MEMORY = (
    "lower --config.benchmark.batch_size (in the evaluation --config.evaluate.video_batch) or "
    "close other programs"
)
# What XLA, PyTorch on a GPU, PyTorch on a CPU and Python say where memory runs out.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "can't allocate memory", "MemoryError")


class WorkerError(InputError):
    """A worker failed, ended or fell silent; the others can go on."""


class Worker:
    """A process that answers a line of JSON with a line of JSON, see `serve`.

    Args:
      name: what messages call it.
      command: the process; its standard error is kept for messages.
      first_line: sent before all else.
      environment: its variables; None keeps this process's.
      patience_s: seconds to wait for an answer.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        first_line: str,
        environment: Mapping[str, str] | None = None,
        patience_s: float = _PATIENCE_S,
    ):
        self.name = name
        self._patience_s = patience_s
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if environment is None else dict(environment),
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        # Both pipes are emptied all the time, or a talkative worker would block on a full one.
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._send(first_line)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
          WorkerError: the worker reports an error, has ended or does not answer in time; the text
            names it.
        """
        self._send(json.dumps(request))
        try:
            line = self._answers.get(timeout=self._patience_s)
        except queue.Empty:
            raise WorkerError(
                f"{self.name}: no answer to {request} within {self._patience_s:g} s"
            ) from None
        if line is None:
            raise WorkerError(f"{self.name}: {self._end()}")
        answer = json.loads(line)
        if "error" in answer:
            text = answer["error"]
            if any(sign in text for sign in _OUT_OF_MEMORY):
                text = f"out of memory; {_LESS_MEMORY}\n    {text.splitlines()[0]}"
            raise WorkerError(f"{self.name}: {text}")
        return answer

    def close(self) -> None:
        """Ends the process; it may have ended before."""
        try:
            self._process.stdin.close()
            self._process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()
        self._process.stdout.close()
        self._process.stderr.close()

    def _send(self, line: str) -> None:
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; `ask` finds out and says how

    def _end(self) -> str:
        code = self._process.wait()
        self._readers[1].join()
        said = "".join(f"\n    {line}" for line in self._errors[-_LAST_LINES:])
        if code == -signal.SIGKILL:
            return (
                f"killed by signal 9, as the system does when memory runs out; {_LESS_MEMORY}"
                + said
            )
        if code < 0:
            return f"ended by signal {-code}" + said
        return f"ended with exit code {code}" + said

    def _read_answers(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _read_errors(self) -> None:
        for line in self._process.stderr:
            self._errors.append(line.rstrip())
            del self._errors[:-_LAST_LINES]
