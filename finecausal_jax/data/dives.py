"""Random access to a built FineDiving-HM data set: one row a dive, with its images as stored.

The builder in `tfds_finecausal` writes two things per split: array_record shards with the images,
and a table without pixels in the data set's metadata. `DiveSource` reads both. It has two builder
configs, `STORED`: the release's JPEG bytes, or pixels that are already resized, which are larger
and quicker to read. Choosing exemplars,
counting dives and reporting scores need the table only, so they never touch an image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int32, Int64

from finecausal_jax.data.clips import Clip, Key, from_record
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.sampling import label_transitions
from finecausal_jax.runtime.checksums import damaged
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json

DATASET_NAME = "finediving_hm"
DATASET_VERSION = "2.0.0"
OLDER_VERSIONS = ("1.0.0",)  # which are read too: what is read of the records is the same
# The last version in which the images changed, or what is sampled of them.
IMAGES_VERSION = "1.0.0"
SPLITS = ("train", "test")
TABLE_KEY = "dives"  # key of the table in the builder's metadata
RESIZE_KEY = "resize"  # the same of what resized images were resized to
FINGERPRINT_KEY = "fingerprint"  # the same of a text that tells releases' annotations apart
IMAGES_KEY = "images"  # the same of a hash of each dive's image files, by split
INFO_FILE = "dataset_info.json"
RECORDS_FILE = "record_checksums.json"  # {split: [CRC-32 of each record]}, which array_record lacks
STORED = RELEASE, RESIZED = ("release", "resized")  # the builder configs


@dataclasses.dataclass(frozen=True, eq=False)
class DiveInfo:
    """Everything known about one dive except its pixels.

    Attributes:
      competition: name of the competition, the first half of the dive's key.
      index: number of the dive in its competition, the second half of the key.
      dive_number: FINA dive number in lower case, such as `407c`.
      score: final score in points (execution times difficulty).
      difficulty: degree of difficulty, 1.5 to 4.1 in the real release.
      frame_numbers: int64 [n], numbers of the frames in the untrimmed broadcast, ascending.
      frame_labels: int64 [n], sub-action label (1..42) of each frame.
      judge_scores: one mark a judge in points, 0 to 10; empty where the release has none.
      sub_action_names: names of the dive's sub-actions, in order.
      transit_frames: positions within the dive, each of the last frame before another sub-action;
        as released, where five dives hold a -1. Nothing is computed from them.
      has_masks: whether there is a mask of each of its frames.
    """

    competition: str
    index: int
    dive_number: str
    score: float
    difficulty: float
    frame_numbers: np.ndarray
    frame_labels: np.ndarray
    judge_scores: tuple[float, ...] = ()
    sub_action_names: tuple[str, ...] = ()
    transit_frames: tuple[int, ...] = ()
    has_masks: bool = True

    @property
    def key(self) -> Key:
        """The dive's name in every annotation table: (competition, index)."""
        return (self.competition, self.index)

    @property
    def completeness(self) -> float:
        """Score over difficulty, in points (0 to 30 where three marks count)."""
        return self.score / self.difficulty

    def transitions(self, rows: Int64[np.ndarray, " t"]) -> Int32[np.ndarray, " 2"]:
        """Returns the labelled transitions of some frames, such as `preprocessing.Video.rows`.

        Args:
          rows: int64 [t], ascending rows of `frame_labels`.

        Returns:
          int32 [2], indices into `rows` where the second and the last sub-action begin.

        Raises:
          InputError: all these frames have the same label; the text names the dive.
        """
        try:
            return label_transitions(self.frame_labels[rows])
        except InputError as error:
            raise InputError(f"dive {self.key}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Returns the row with plain Python values, ready for `json.dump`."""
        row = dataclasses.asdict(self)
        row["frame_numbers"] = self.frame_numbers.tolist()
        row["frame_labels"] = self.frame_labels.tolist()
        if self.has_masks:  # as in tables from before there were dives without
            del row["has_masks"]
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> DiveInfo:
        """Returns the row written by `to_json`."""
        return cls(
            competition=str(row["competition"]),
            index=int(row["index"]),
            dive_number=str(row["dive_number"]),
            score=float(row["score"]),
            difficulty=float(row["difficulty"]),
            frame_numbers=np.asarray(row["frame_numbers"], np.int64),
            frame_labels=np.asarray(row["frame_labels"], np.int64),
            judge_scores=tuple(float(mark) for mark in row["judge_scores"]),
            sub_action_names=tuple(str(name) for name in row["sub_action_names"]),
            transit_frames=tuple(int(frame) for frame in row["transit_frames"]),
            has_masks=bool(row.get("has_masks", True)),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Dive:
    """One dive: a clip with labels.

    Attributes:
      info: the dive's row of the table.
      clip: its images, in the order of `info.frame_numbers`.

    Raises:
      InputError: the two are not of one dive, or something is missing for a frame.
    """

    info: DiveInfo
    clip: Clip

    def __post_init__(self) -> None:
        self.clip.check(labels=len(self.info.frame_labels))
        if self.clip.key != self.info.key:
            raise InputError(f"the clip {self.clip.key} is not of the dive {self.info.key}")
        if not np.array_equal(self.clip.frame_numbers, self.info.frame_numbers):
            raise InputError(
                f"dive {self.info.key} was annotated for the frames "
                f"{_span(self.info.frame_numbers)}, the clip has {_span(self.clip.frame_numbers)}: "
                "expected the same, or its labels would be those of other frames"
            )

    @property
    def key(self) -> Key:
        """The dive's (competition, index)."""
        return self.info.key

    @property
    def frames(self) -> tuple[bytes, ...] | np.ndarray:
        """The clip's frames."""
        return self.clip.frames

    @property
    def masks(self) -> tuple[bytes, ...] | np.ndarray | None:
        """The clip's masks."""
        return self.clip.masks


class DiveSource:
    """Random access to the dives of one split of a built data set.

    Safe to pickle and to read from several threads: files open on the first read, so a Grain
    worker process opens its own.

    Args:
      data_dir: the folder the data set was built into (it holds `finediving_hm/`).
      split: `"train"` or `"test"`.
      resize: None reads the release's bytes; else the images stored resized, which must have been
        resized so.

    Attributes:
      infos: what is known about each dive, in the order of the records.
      keys: the (competition, index) of each dive.
      fingerprint: a text that tells what was built apart: the release's annotations, the settings
        of a rendered release, and the bytes of every image file of the split. The same for stored
        bytes and resized images. A data set built before image files were hashed has no part for
        them.

    Raises:
      InputError: the split's name is unknown, no finished data set is there, its images were
        resized to another size, its table and its records disagree, or the split is empty.
    """

    def __init__(self, data_dir: str | pathlib.Path, split: str, *, resize: Resize | None = None):
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
        self.data_dir = pathlib.Path(data_dir)
        self.split = split
        self.resize = resize
        folder = existing_folder(data_dir, RELEASE if resize is None else RESIZED)
        rows, self.fingerprint, self._shards, count = _read_table(folder, split, resize)
        self._checksums = _record_checksums(folder, split, count)
        self.infos: tuple[DiveInfo, ...] = tuple(_info(row, folder) for row in rows)
        self.keys: tuple[Key, ...] = tuple(info.key for info in self.infos)
        if not self.infos or not count:
            raise InputError(
                f"the {split} split of {folder} is empty; expected at least one dive: check "
                f"Annotations/{split}_split.pkl of the release (or what was skipped) and build "
                "again"
            )
        if len(self.infos) != count:
            raise InputError(
                f"the {split} split of {folder} has {count} records but its table lists "
                f"{len(self.infos)} dives: delete that folder and build again"
            )
        self._records: Any = None
        self._parser: Any = None

    def __len__(self) -> int:
        return len(self.infos)

    def __iter__(self) -> Iterator[Dive]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: SupportsIndex) -> Dive:
        """Returns the dive of `infos[row]` with its images as stored; no JPEG is decoded."""
        row = operator.index(row)
        if not 0 <= row < len(self.infos):
            raise IndexError(f"row {row} of the {self.split} split, which has {len(self)} dives")
        if self._records is None:
            self._open()
        info = self.infos[row]
        try:
            record = self._records[row]
            if self._checksums and zlib.crc32(record) != self._checksums[row]:
                raise ValueError("its bytes have changed")
            example = self._parser.parse_example(record)
            stored = (example["competition"].decode(), example["index"])
            clip = from_record(example, info.key, info.frame_numbers, self.resize)
        except Exception as error:  # damaged shards make array_record raise nearly anything
            reason = (str(error).splitlines() or [""])[0][:200]
            raise InputError(
                f"record {row} of the {self.split} split in {self.data_dir}, dive {info.key}, "
                f"cannot be read ({type(error).__name__}: {reason}): {_AGAIN}"
            ) from error
        if stored != info.key:
            raise InputError(
                f"record {row} of the {self.split} split in {self.data_dir} is dive {stored}, its "
                f"table says {info.key}: the files were mixed up, delete the folder and build again"
            )
        return Dive(info, clip)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None, "_parser": None}

    def __repr__(self) -> str:
        # Grain writes the source's repr into its checkpoints and refuses another one on restore,
        # so it must not hold an address.
        return f"DiveSource(split={self.split!r}, dives={len(self)})"

    def _open(self) -> None:
        """Opens the shards and makes a parser for the stored bytes of the images."""
        from array_record.python import array_record_data_source
        from tensorflow_datasets.core import example_parser, features

        spec = features.FeaturesDict(
            {
                "competition": features.Text(),
                "index": np.int64,
                **image_features(RELEASE if self.resize is None else RESIZED),
            }
        )
        self._parser = example_parser.ExampleParserNp(spec.get_serialized_info())
        self._records = array_record_data_source.ArrayRecordDataSource(list(self._shards))


def dataset_folder(data_dir: str | pathlib.Path, stored: str) -> pathlib.Path:
    """Returns where the data set of a builder config (one of `STORED`) is built."""
    return pathlib.Path(data_dir) / DATASET_NAME / stored / DATASET_VERSION


def existing_folder(data_dir: str | pathlib.Path, stored: str) -> pathlib.Path:
    """Returns the same, or the folder of an older version where only that was built."""
    folder = dataset_folder(data_dir, stored)
    older = (folder.with_name(version) for version in OLDER_VERSIONS)
    return next((one for one in (folder, *older) if (one / INFO_FILE).is_file()), folder)


def image_features(stored: str) -> dict[str, Any]:
    """Returns the TFDS features `frames` and `masks` of a builder config (one of `STORED`)."""
    from tensorflow_datasets.core import features

    if stored == RESIZED:
        # Plain pixels: array_record compresses each record with zstd anyway, which is as small as
        # fast PNG here and several times quicker to read.
        pixels = {"dtype": np.uint8, "encoding": "bytes"}
        return {
            "frames": features.Tensor(shape=(None, None, None, 3), **pixels),
            "masks": features.Tensor(shape=(None, None, None), **pixels),
        }
    return {
        name: features.Sequence(
            features.Image(shape=(None, None, channels), encoding_format="jpeg")
        )
        for name, channels in (("frames", 3), ("masks", 1))
    }


def write_record_checksums(folder: pathlib.Path) -> None:
    """Reads all records of a data set that was just built and keeps the CRC-32 of each."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_data_source

    splits = tfds.builder_from_directory(folder).info.splits
    sums = {}
    for split in splits:
        shards = [one.filename for one in splits[split].file_instructions]
        records = array_record_data_source.ArrayRecordDataSource(shards) if shards else []
        sums[split] = [zlib.crc32(records[row]) for row in range(len(records))]
    text = json.dumps(sums) + "\n"
    write_atomically(folder / RECORDS_FILE, lambda path: path.write_text(text))


def _record_checksums(folder: pathlib.Path, split: str, count: int) -> list[int]:
    """CRC-32 of each record of a split; empty of a data set that was built without."""
    path = folder / RECORDS_FILE
    if not path.is_file():
        return []
    expected = "a checksum of each record"
    content = read_json(path, expected, _AGAIN)
    sums = content.get(split) if isinstance(content, dict) else None
    if not isinstance(sums, list) or len(sums) != count:
        raise not_expected(path, expected, "other records", _AGAIN)
    return sums


def refuse_damaged(folder: pathlib.Path) -> None:
    """Raises InputError where a file of a data set is missing or not as it was built; reads all."""
    _refuse_damage(folder, None)


def _refuse_damage(folder: pathlib.Path, most_bytes: int | None) -> None:
    problems = damaged(folder, most_bytes=most_bytes)
    if problems:
        shown = "\n  ".join(problems[:5])
        rest = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"the data set in {folder} is damaged: {_AGAIN}:\n  {shown}{rest}")


_AGAIN = "build it again with `launch.py build --overwrite`"


def _info(row: Any, folder: pathlib.Path) -> DiveInfo:
    try:
        return DiveInfo.from_json(row)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{folder / 'metadata.json'}: expected a row for each dive, found something else "
            f"({type(error).__name__}: {error}); {_AGAIN}"
        ) from error


def _span(numbers: np.ndarray) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) else "none"


def _read_table(
    folder: pathlib.Path, split: str, resize: Resize | None
) -> tuple[list[Mapping[str, Any]], str, tuple[str, ...], int]:
    """Returns the split's rows, its `DiveSource.fingerprint`, its shards as `path[first:end]`, and
    its number of records."""
    option = "" if resize is None else f" --config.data.stored={RESIZED}"
    if not (folder / INFO_FILE).is_file():
        raise InputError(
            f"no built data set in {folder}: run `python launch.py build --config=CONFIG{option}` "
            "first (config.data.manual_dir is the release, config.data.data_dir "
            "where the data set goes)"
        )
    _refuse_damage(folder, 2**20)  # records are compared when they are read
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(folder).info
        metadata = info.metadata or {}
    except Exception as error:  # of damaged JSON TFDS raises nearly anything
        reason = (str(error).splitlines() or [""])[0][:200]
        raise InputError(
            f"the data set in {folder} cannot be read ({type(error).__name__}: {reason}): {_AGAIN}"
        ) from error
    table = metadata.get(TABLE_KEY)
    if not isinstance(table, Mapping):
        raise InputError(
            f"the data set in {folder} has no {TABLE_KEY!r} table in metadata.json: it is damaged, "
            f"or was built by other code; {_AGAIN}"
        )
    size = metadata.get(RESIZE_KEY)
    found = None if size is None else Resize(**size)
    if found != resize:
        state = f"were resized to {found}" if found else "were not resized"
        raise InputError(
            f"the images of the data set in {folder} {state}, the config asks for "
            f"{resize or 'unresized ones'}: build again with --overwrite{option}, choose another "
            "config.data.data_dir, or read the release's bytes with "
            f"--config.data.stored={RELEASE}"
        )
    images = metadata.get(IMAGES_KEY, {}).get(split)
    fingerprint = str(metadata.get(FINGERPRINT_KEY, ""))
    if images is not None:
        fingerprint += " " + hashlib.sha256(json.dumps(images).encode()).hexdigest()
    if split not in info.splits or not info.splits[split].num_examples:
        return list(table.get(split, [])), fingerprint, (), 0
    instructions = info.splits[split].file_instructions
    shards = tuple(f"{one.filename}[{one.skip}:{one.skip + one.take}]" for one in instructions)
    return list(table.get(split, [])), fingerprint, shards, info.splits[split].num_examples
