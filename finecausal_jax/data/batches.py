"""An iterator over planned batches that loads ahead and continues exactly where it was saved."""

from __future__ import annotations

import functools
import gc
import os
import pathlib
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import grain
from absl import flags, logging

from finecausal_jax.runtime.errors import InputError

# Batches prepared ahead by the background thread. A full-size pair is 9.6 MB, so this stays small
# where Grain's default (500) would not.
_AHEAD = 2

# Smaller arrays travel from a worker process through its pipe; each array in shared memory costs a
# file. The frames and masks do use it: 19 MB (two full-size pairs) took 70 ms there and 278 ms
# through the pipe.
_SHARED_BYTES = 2**16
# Where shared memory is; a container has 64 MB of it unless told otherwise. For each worker there
# is room needed for a batch that is made, one that waits, one that is used, and what is not given
# back yet.
_SHARED_MEMORY = pathlib.Path("/dev/shm")
_SHARED_BATCHES = 5
_GIVEN_BACK_S = 0.2  # Grain gives it back in a thread, which takes a few milliseconds
_OTHERWISE = (
    "let the main process load them with --config.data.workers=0, or give a container more with "
    "`docker run --shm-size=2g`"
)


T = TypeVar("T")


class Batches(grain.DatasetIterator):
    """Iterator over planned batches that can continue anywhere.

    Its state is the number of the next batch and what the plan depends on. Unlike the state of
    Grain's own iterators it does not depend on the number of worker processes or hosts, so a run
    may resume with others. Orbax saves and restores it like any Grain iterator.

    Args:
      batches: the batches, loaded when indexed.
      workers: processes that load them; 0 uses a thread of this process.
      identity: what the plan depends on; a state with another one is refused.
      batch_bytes: of pixels in a batch, which worker processes hand over in shared memory.

    Raises:
      InputError: there is too little shared memory for so many workers.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        workers: int,
        identity: dict[str, int],
        batch_bytes: int = 0,
    ):
        super().__init__()
        self._all = batches
        self._workers = workers
        self._identity = identity
        self._next_batch = 0
        self._running: list[grain.DatasetIterator] = []  # one once started, else none
        # Worker processes must end before the interpreter takes its modules apart, or they leave
        # shared memory behind and complaints on the terminal.
        weakref.finalize(self, _close_all, self._running)
        if workers:
            _check_shared_memory(workers, batch_bytes)

    def __len__(self) -> int:
        """Batches from the first to the last one, wherever the iterator stands."""
        return len(self._all)

    def __next__(self) -> dict[str, Any]:
        try:
            batch = self._take()
        except StopIteration:
            raise
        except Exception as error:
            self._stop()  # the same batch comes again, should the caller go on
            if not _is_of_dead_worker(error):
                raise
            batch = self._without_dead_worker(error)
        self._next_batch += 1
        return batch

    def _without_dead_worker(self, error: Exception) -> dict[str, Any]:
        """The batch that a worker was making when it ended, made by new ones.

        Raises:
          InputError: it ends them, too.
        """
        logging.warning("loading batch %d: %s Starting others.", self._next_batch, error)
        try:
            return self._take()
        except Exception as again:
            self._stop()
            if not _is_of_dead_worker(again):
                raise
            raise InputError(
                f"batch {self._next_batch} ended its worker process twice ({again}): with exit "
                f"code -7 shared memory was full, with -9 the machine's memory; {_OTHERWISE}"
            ) from again

    def load(self, number: int) -> dict[str, Any]:
        """Loads one batch here and now, in this thread; the iterator stays where it is.

        Args:
          number: of the batch, 0 being the first of all.

        Raises:
          InputError: a dive cannot be used; the text names it.
        """
        return self._all[number]

    def get_state(self) -> dict[str, int]:
        """Returns the place behind the last batch handed out, in plain integers."""
        return {"next_batch": self._next_batch, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to the place that `get_state` returned, here or in another process.

        Raises:
          InputError: the state belongs to another plan.
        """
        expected = {"next_batch", *self._identity}
        if set(state) != expected:
            raise InputError(
                f"the data iterator's state has the entries {sorted(state)}, expected "
                f"{sorted(expected)}: it was saved by another kind of iterator"
            )
        for name, value in self._identity.items():
            if state[name] != value:
                raise InputError(
                    f"the data iterator was saved with {name} {state[name]}, this one has {value}: "
                    "resume with the settings and data of the saved run, or start a new one"
                )
        self._stop()
        self._next_batch = int(state["next_batch"])

    def start_prefetch(self) -> None:
        """Starts preparing batches in the background; worker processes start with the first one."""
        if not self._workers:
            self._begin().start_prefetch()

    def close(self) -> None:
        """Ends the worker processes; no batch can be read after."""
        self._stop()
        self._closed = True
        if self._workers:
            # The last batches may be kept by what is garbage, such as the frames of an exception;
            # what is left of shared memory when the process ends, Python complains of.
            gc.collect()
            time.sleep(_GIVEN_BACK_S)

    def _begin(self) -> grain.DatasetIterator:
        if self._closed:
            raise ValueError("this data iterator was closed: make a new one")
        if not self._running:
            batches = self._all[self._next_batch :]
            self._running.append(iter(_start(batches, self._workers)))
        return self._running[0]

    def _take(self) -> dict[str, Any]:
        """The next batch of the running iterator; its first one starts the processes."""
        if self._workers and not self._running:
            return _in_thread_without_signals(lambda: next(self._begin()))
        return next(self._begin())

    def _stop(self) -> None:
        _close_all(self._running)


def _close_all(running: list[grain.DatasetIterator]) -> None:
    while running:
        running.pop().close()


def _start(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    if not workers:
        return batches.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
        )
    if not flags.FLAGS.is_parsed():
        # Grain 0.2.18 reads one of its flags before it starts processes and fails in programs that
        # parse none (google/grain 1355). Marking keeps the defaults and later parsing still works.
        flags.FLAGS.mark_as_parsed()
    # In a worker process nothing else needs the core: no thread beside the one that runs.
    ordered = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.experimental.DatasetOptions(min_shm_size=_SHARED_BYTES)
    return grain.experimental.WithOptionsIterDataset(ordered, options).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
        worker_init_fn=functools.partial(_end_with_parent, os.getpid()),
    )


def _in_thread_without_signals(call: Callable[[], T]) -> T:
    """What a call gives that starts processes, which will leave Ctrl-C and SIGTERM to this one.

    Terminals and batch systems send them to all processes. A worker that ends then leaves its
    batches in shared memory, and the step at hand without its next one. Processes and threads have
    the signals blocked that the thread has that starts them; this thread goes on to hear them.
    """
    results: list[Any] = []
    # It clears the thread's blocked signals when it starts, so before.
    resource_tracker.ensure_running()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            results.append((call(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    value, error = results.pop()
    if error is not None:
        raise error
    return value


def _end_with_parent(parent: int, index: int, count: int) -> None:
    """In a worker process: ends it when the process that started it is gone, as by a SIGKILL."""
    del index, count

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_of_dead_worker(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "was terminated unexpectedly" in str(error)


def _check_shared_memory(workers: int, batch_bytes: int) -> None:
    if not _SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(_SHARED_MEMORY).free
    needed = _SHARED_BATCHES * workers * batch_bytes
    if free < needed:
        raise InputError(
            f"config.data.workers={workers}: {_SHARED_MEMORY} has {free / 1e6:.0f} MB free, "
            f"expected some {needed / 1e6:.0f} MB for batches of {batch_bytes / 1e6:.0f} MB; "
            f"{_OTHERWISE}"
        )
