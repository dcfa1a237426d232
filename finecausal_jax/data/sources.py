"""What batches are read from: anything that hands out clips, or dives, by row."""

from __future__ import annotations

import collections
import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, SupportsIndex, runtime_checkable

from finecausal_jax.data.clips import Clip, Key
from finecausal_jax.data.dives import Dive, DiveInfo
from finecausal_jax.runtime.errors import InputError


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

    @property
    def fingerprint(self) -> str:
        """Tells what the dives were made of apart, see `dives.DiveSource`."""
        ...

    def __getitem__(self, row: int) -> Dive: ...


class ClipList:
    """Clips at hand, as a source.

    Args:
      clips: the clips.

    Raises:
      InputError: two clips have the same key, so that results could not be told apart.
    """

    def __init__(self, clips: Iterable[Clip | Dive]):
        self._clips = tuple(clips)
        self.keys: tuple[Key, ...] = tuple(clip.key for clip in self._clips)
        twice = [key for key, count in collections.Counter(self.keys).items() if count > 1]
        if twice:
            raise InputError(f"two clips have the key {twice[0]}: expected another key for each")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, row: int) -> Clip | Dive:
        return self._clips[row]

    def __repr__(self) -> str:  # without addresses, as that of `DiveSource`
        return f"ClipList(clips={len(self)})"


class SelectedDives:
    """Some dives of several sources, as one source. Safe to pickle where the sources are.

    Args:
      sources: where the dives are stored.
      places: (which source, row there) of each dive.
      name: what messages and `repr` call them.

    Attributes:
      infos: what is known about each dive.
      keys: the (competition, index) of each dive.
      fingerprint: those of the sources that are used (see `DiveSource`).
    """

    def __init__(self, sources: Sequence[Dives], places: Sequence[tuple[int, int]], name: str):
        used = sorted({source for source, _ in places})
        self.name = name
        self.infos: tuple[DiveInfo, ...] = tuple(sources[part].infos[row] for part, row in places)
        self.keys: tuple[Key, ...] = tuple(info.key for info in self.infos)
        self.fingerprint = json.dumps([sources[part].fingerprint for part in used])
        self._places = tuple(places)
        self._sources = {part: sources[part] for part in used}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Dive]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: SupportsIndex) -> Dive:
        """Returns the dive of `infos[row]`."""
        row = operator.index(row)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.name}, which has {len(self)} dives")
        source, stored_row = self._places[row]
        return self._sources[source][stored_row]

    def __repr__(self) -> str:  # without addresses, as that of `DiveSource`
        return f"SelectedDives({self.name!r}, dives={len(self)})"
