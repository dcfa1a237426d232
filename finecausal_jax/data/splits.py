"""Which dives train and which test: named rules over the table of all dives.

A split is written as a rule and, after slashes, how its test dives are narrowed down, in turn:

    official                           the stored splits, as released
    competitions:5:0                   test on group 0 of 5 groups of competitions, train on others
    competitions:5:0/with_exemplars    the same, less test dives that nothing can be compared to
    official/without_mtl_aqa/first:20  the first 20 of the test dives that MTL-AQA does not hold

`Split.parse` reads such a name and `open_split` applies it to the stored dives. Exemplars are
training dives: where competitions are held out, a dive is compared to those of other competitions.

A new rule is a frozen dataclass of whole numbers with a method `divide`, listed in `RULES`; another
way to narrow down is one with a method `keep`, listed in `SUBSETS`.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from finecausal_jax.data import seeding
from finecausal_jax.data.dives import SPLITS, DiveInfo
from finecausal_jax.data.sources import Dives, SelectedDives
from finecausal_jax.runtime.errors import InputError

# Competitions that also occur in MTL-AQA: a network that was pretrained there may have seen them.
MTL_AQA = frozenset(f"{number:02d}" for number in range(1, 27))


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """All dives of a data set, one row a dive.

    Attributes:
      infos: what is known about each.
      stored: the stored split that each is in, one of `SPLITS`.
    """

    infos: tuple[DiveInfo, ...]
    stored: tuple[str, ...]


class Division(NamedTuple):
    """Rows of the table, each in at most one of the two.

    Attributes:
      train: the dives to train on, and to choose exemplars from.
      test: the dives to test on.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]


@runtime_checkable
class Rule(Protocol):
    """Says of every dive which side it is on."""

    def divide(self, table: Table) -> Division: ...


@runtime_checkable
class Subset(Protocol):
    """Says which test dives are kept."""

    def keep(self, test: Sequence[DiveInfo], train: Sequence[DiveInfo]) -> list[int]:
        """Returns rows of `test`, ascending."""
        ...


@dataclasses.dataclass(frozen=True)
class Official:
    """The stored splits."""

    def divide(self, table: Table) -> Division:
        """Returns the rows of either stored split, in their order."""
        train, test = (
            tuple(row for row, stored in enumerate(table.stored) if stored == name)
            for name in SPLITS
        )
        return Division(train, test)


@dataclasses.dataclass(frozen=True)
class Competitions:
    """One group of competitions is held out; no competition is on both sides.

    Attributes:
      groups: into how many groups all competitions go, 2 or more.
      held_out: number of the group to test on, 0..groups-1.
    """

    groups: int
    held_out: int

    def __post_init__(self) -> None:
        if self.groups < 2 or not 0 <= self.held_out < self.groups:
            raise InputError(
                f"competitions:{self.groups}:{self.held_out}: expected competitions:K:I with at "
                "least 2 groups K and the number I of one of them, from 0 to K-1"
            )

    def divide(self, table: Table) -> Division:
        """Returns the rows of the other groups and those of the one held out.

        Raises:
          InputError: there are fewer competitions than groups.
        """
        group = competition_groups(table.infos, self.groups)
        held_out = [group[info.competition] == self.held_out for info in table.infos]
        return Division(
            tuple(row for row, out in enumerate(held_out) if not out),
            tuple(row for row, out in enumerate(held_out) if out),
        )


@dataclasses.dataclass(frozen=True)
class First:
    """The first test dives, for a quick look.

    Attributes:
      count: how many at most, 1 or more.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"first:{self.count}: expected first:N with at least 1 dive N")

    def keep(self, test: Sequence[DiveInfo], train: Sequence[DiveInfo]) -> list[int]:
        """Returns the first rows."""
        return list(range(min(self.count, len(test))))


@dataclasses.dataclass(frozen=True)
class WithoutMtlAqa:
    """Test dives of competitions that MTL-AQA does not hold."""

    def keep(self, test: Sequence[DiveInfo], train: Sequence[DiveInfo]) -> list[int]:
        """Returns the rows of competitions whose name is no number from 01 to 26."""
        return [row for row, info in enumerate(test) if info.competition not in MTL_AQA]


@dataclasses.dataclass(frozen=True)
class OnlyMtlAqa:
    """Test dives of competitions that MTL-AQA holds too."""

    def keep(self, test: Sequence[DiveInfo], train: Sequence[DiveInfo]) -> list[int]:
        """Returns the rows of competitions whose name is a number from 01 to 26."""
        return [row for row, info in enumerate(test) if info.competition in MTL_AQA]


@dataclasses.dataclass(frozen=True)
class WithExemplars:
    """Test dives that can be scored: some training dive has their dive number."""

    def keep(self, test: Sequence[DiveInfo], train: Sequence[DiveInfo]) -> list[int]:
        """Returns the rows whose dive number occurs in `train`."""
        known = {info.dive_number for info in train}
        return [row for row, info in enumerate(test) if info.dive_number in known]


# How each is written; the capitals stand for whole numbers.
RULES: dict[str, type] = {"official": Official, "competitions:K:I": Competitions}
SUBSETS: dict[str, type] = {
    "first:N": First,
    "without_mtl_aqa": WithoutMtlAqa,
    "only_mtl_aqa": OnlyMtlAqa,
    "with_exemplars": WithExemplars,
}


@dataclasses.dataclass(frozen=True)
class Split:
    """A way to divide the dives of a data set.

    Attributes:
      name: as it is written, which `parse` reads.
      rule: divides all dives.
      subsets: narrow the test dives down, one after the other.
    """

    name: str
    rule: Rule
    subsets: tuple[Subset, ...] = ()

    @classmethod
    def parse(cls, name: str) -> Split:
        """Returns the split of a name such as `competitions:5:0/first:20`.

        Raises:
          InputError: there is no such split; the text lists what there is.
        """
        rule, *subsets = name.split("/")
        try:
            return cls(name, _parse(rule, RULES), tuple(_parse(one, SUBSETS) for one in subsets))
        except InputError as error:
            raise InputError(
                f"unknown split {name!r}: {error}. A split is {' or '.join(RULES)}, then any of "
                f"/{', /'.join(SUBSETS)}, which narrow its test dives down"
            ) from error

    def divide(self, table: Table) -> Division:
        """Returns which rows of the table are on which side.

        Raises:
          InputError: a side is empty, or the data set does not allow the rule.
        """
        train, test = self.rule.divide(table)
        for subset in self.subsets:
            infos = ([table.infos[row] for row in side] for side in (test, train))
            test = tuple(test[kept] for kept in subset.keep(*infos))
        for side, rows in zip(SPLITS, (train, test), strict=True):
            if not rows:
                raise InputError(
                    f"the split {self.name!r} leaves no {side} dives of the {len(table.infos)} in "
                    "the data set, expected at least one: choose another split"
                )
        return Division(train, test)

    def __str__(self) -> str:
        return self.name


def competition_groups(infos: Sequence[DiveInfo], groups: int) -> dict[str, int]:
    """Returns the group, 0..groups-1, of every competition.

    The largest competition comes first, equally large ones in the order of a hash of their names;
    each goes to the group that has the fewest dives by then. So groups differ by the dives of the
    largest competition at most, and depend on nothing but the names and sizes.

    Raises:
      InputError: there are fewer competitions than groups.
    """
    sizes = collections.Counter(info.competition for info in infos)
    if len(sizes) < groups:
        raise InputError(
            f"{groups} groups of competitions need as many competitions, the data set has "
            f"{len(sizes)}: choose a split with fewer groups"
        )
    order = sorted(sizes, key=lambda name: (-sizes[name], seeding.digest("competition", name)))
    dives, chosen = [0] * groups, {}
    for name in order:
        chosen[name] = dives.index(min(dives))
        dives[chosen[name]] += sizes[name]
    return chosen


def open_split(split: Split, sources: Mapping[str, Dives]) -> dict[str, Dives]:
    """Returns the training and the test dives of a split.

    Args:
      split: the split.
      sources: the stored dives by stored split; all of `SPLITS`.

    Returns:
      The dives by side, "train" and "test". A side that is a whole stored split, as both are of
      `official`, is that source itself.

    Raises:
      InputError: as `Split.divide`.
    """
    parts = tuple(sources[name] for name in SPLITS)
    places = [(part, row) for part, source in enumerate(parts) for row in range(len(source))]
    table = Table(
        tuple(parts[part].infos[row] for part, row in places),
        tuple(SPLITS[part] for part, _ in places),
    )
    sides: dict[str, Dives] = {}
    for side, rows in zip(SPLITS, split.divide(table), strict=True):
        chosen = [places[row] for row in rows]
        part = chosen[0][0]
        whole = chosen == [(part, row) for row in range(len(parts[part]))]
        sides[side] = parts[part] if whole else SelectedDives(parts, chosen, f"{side} of {split}")
    return sides


def take_calibration(train: Dives, count: int) -> tuple[Dives, Dives]:
    """Takes dives out of training that an evaluation calibrates its intervals on.

    Which is fixed by a hash of their keys. A dive that is the last one of its dive number stays,
    since nothing could be compared to it.

    Args:
      train: the training dives.
      count: how many to take, at least 1.

    Returns:
      The dives that are left to train on, and the calibration dives.

    Raises:
      InputError: so many cannot be taken.
    """
    left = collections.Counter(info.dive_number for info in train.infos)
    taken: set[int] = set()
    rows = range(len(train.infos))
    for row in sorted(rows, key=lambda row: seeding.digest("calibration", *train.infos[row].key)):
        number = train.infos[row].dive_number
        if len(taken) < count and left[number] > 1:
            taken.add(row)
            left[number] -= 1
    if len(taken) < count:
        raise InputError(
            f"config.data.calibration_dives is {count}, but of the {len(train.infos)} training "
            f"dives at most {len(taken)} can be left out: one of each dive number has to stay"
        )
    kept = [(0, row) for row in rows if row not in taken]
    out = [(0, row) for row in rows if row in taken]
    return SelectedDives([train], kept, "train"), SelectedDives([train], out, "calibration")


def _parse(text: str, known: Mapping[str, type]) -> Any:
    """Returns what a name such as `first:20` means, one of `known` with its numbers."""
    name, *numbers = text.split(":")
    for usage, kind in known.items():
        if usage.split(":")[0] == name:
            whole = all(re.fullmatch("0|[1-9][0-9]*", number) for number in numbers)
            if not whole or len(numbers) != usage.count(":"):
                raise InputError(f"{text!r} should read {usage}, with whole numbers")
            return kind(*map(int, numbers))
    raise InputError(f"{text!r} is none of {', '.join(known)}")
