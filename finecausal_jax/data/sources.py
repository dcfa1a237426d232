"""What batches are read from: anything that hands out clips, or dives, by row."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from finecausal_jax.data.clips import Clip, Key
from finecausal_jax.data.dives import Dive, DiveInfo


@runtime_checkable
class Clips(Protocol):
    """A source of clips, with labels or without: what evaluation needs of it."""

    @property
    def keys(self) -> Sequence[Key]:
        """The clips' names, none twice."""
        ...

    def __getitem__(self, row: int) -> Clip | Dive: ...

    def __len__(self) -> int: ...


@runtime_checkable
class Dives(Clips, Protocol):
    """A source of dives: what training and the choice of exemplars need besides.

    `dives.DiveSource` is the usual one.
    """

    @property
    def infos(self) -> tuple[DiveInfo, ...]:
        """What is known about each dive, by row."""
        ...

    def __getitem__(self, row: int) -> Dive: ...


class ClipList:
    """Clips at hand, as a source.

    Args:
      clips: the clips.

    Raises:
      ValueError: two clips have the same key, so that results could not be told apart.
    """

    def __init__(self, clips: Iterable[Clip | Dive]):
        self._clips = tuple(clips)
        self.keys: tuple[Key, ...] = tuple(clip.key for clip in self._clips)
        twice = [key for key, count in collections.Counter(self.keys).items() if count > 1]
        if twice:
            raise ValueError(f"two clips have the key {twice[0]}: expected another key for each")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, row: int) -> Clip | Dive:
        return self._clips[row]

    def __repr__(self) -> str:  # without addresses, as that of `DiveSource`
        return f"ClipList(clips={len(self)})"
