"""An iterator over planned batches that loads ahead and continues exactly where it was saved."""

from __future__ import annotations

import weakref
from typing import Any

import grain
from absl import flags

from finecausal_jax.runtime.errors import InputError

# Batches prepared ahead by the background thread. A full-size pair is 9.6 MB, so this stays small
# where Grain's default (500) would not.
_AHEAD = 2

# Smaller arrays travel from a worker process through its pipe; each array in shared memory costs a
# file. The frames and masks do use it: 19 MB (two full-size pairs) took 70 ms there and 278 ms
# through the pipe. A container needs room in /dev/shm for about five batches a worker.
_SHARED_BYTES = 2**16


class Batches(grain.DatasetIterator):
    """Iterator over planned batches that can continue anywhere.

    Its state is the number of the next batch and what the plan depends on. Unlike the state of
    Grain's own iterators it does not depend on the number of worker processes or hosts, so a run
    may resume with others. Orbax saves and restores it like any Grain iterator.

    Args:
      batches: the batches, loaded when indexed.
      workers: processes that load them; 0 uses a thread of this process.
      identity: what the plan depends on; a state with another one is refused.
    """

    def __init__(self, batches: grain.MapDataset, workers: int, identity: dict[str, int]):
        super().__init__()
        self._all = batches
        self._workers = workers
        self._identity = identity
        self._next_batch = 0
        self._running: list[grain.DatasetIterator] = []  # one once started, else none
        # Worker processes must end before the interpreter takes its modules apart, or they leave
        # shared memory behind and complaints on the terminal.
        weakref.finalize(self, _close_all, self._running)

    def __len__(self) -> int:
        """Batches from the first to the last one, wherever the iterator stands."""
        return len(self._all)

    def __next__(self) -> dict[str, Any]:
        running = self._begin()
        try:
            batch = next(running)
        except StopIteration:
            raise
        except Exception:
            self._stop()  # the same batch comes again, should the caller go on
            raise
        self._next_batch += 1
        return batch

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
        """Starts preparing batches in the background; the first `next` does so by itself."""
        self._begin().start_prefetch()

    def close(self) -> None:
        """Ends the worker processes; no batch can be read after."""
        self._stop()
        self._closed = True

    def _begin(self) -> grain.DatasetIterator:
        if self._closed:
            raise ValueError("this data iterator was closed: make a new one")
        if not self._running:
            batches = self._all[self._next_batch :]
            self._running.append(iter(_start(batches, self._workers)))
        return self._running[0]

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
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    )
