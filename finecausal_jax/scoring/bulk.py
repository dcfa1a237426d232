"""Scores many own videos: in shards that resume, by any number of processes.

A folder holds a file a shard, `shards/00003.json`, with a result a video in the order of the list.
A shard that is there is done; one that another process works on is passed over, and done later if
that process died. A video that cannot be scored is a line in the result, not the end of the work.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finecausal_jax.data.clips import Clip, Key
from finecausal_jax.data.sampling import sample_frames
from finecausal_jax.data.sources import ClipList, Dives
from finecausal_jax.data.video_files import Part
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json
from finecausal_jax.runtime.progress import progress
from finecausal_jax.scoring import new_dive
from finecausal_jax.scoring.features import Encoding
from finecausal_jax.scoring.new_dive import Announced
from finecausal_jax.scoring.protocol import Choice
from finecausal_jax.scoring.scorer import Scorer

COLUMNS = ("video", "dive_number", "difficulty", "start", "end")
RESULTS = ("video", "score", "completeness", "spread", "exemplars", "warning", "error")
INDEX = "bulk.json"
_MOST_BYTES = 64 * 2**20
_AHEAD = 2  # videos that are decoded at once, each in a process of its own
_MEND = "delete the folder, or choose another --workdir"


@dataclasses.dataclass(frozen=True)
class Request:
    """A line of the list.

    Attributes:
      video: the file, or a folder of frames.
      dive_number, difficulty: as announced; as text, since a bad one is told in the result.
      start, end: of the dive, seconds; empty for the video's beginning and end.
    """

    video: str
    dive_number: str
    difficulty: str
    start: str = ""
    end: str = ""

    def part(self) -> Part:
        """Which part of the video it is.

        Raises:
          InputError: a time is no number, or the end is not after the start.
        """
        return Part(*(_number(name, getattr(self, name)) for name in ("start", "end")))

    def announced(self, clip: Clip) -> Announced:
        """The dive to score.

        Raises:
          InputError: what was announced cannot be.
        """
        difficulty = _number("difficulty", self.difficulty)
        if difficulty is None:
            raise InputError("the difficulty is missing, expected a number from 1.0 to 5.0")
        return Announced(clip, self.dive_number, difficulty)


def read_requests(path: str | os.PathLike[str]) -> list[Request]:
    """Reads the list of videos: a CSV file with a header.

    Args:
      path: the file; videos are named relative to its folder.

    Raises:
      InputError: it is no such file, or a column is missing or unknown.
    """
    path = pathlib.Path(path)
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise InputError(
            f"{path} is no file of at most {_MOST_BYTES / 1e6:.0f} MB: expected a CSV list with "
            f"the columns {', '.join(COLUMNS)}"
        )
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV in UTF-8 ({error})") from error
    lines = [[cell.strip() for cell in line] for line in lines if line]
    header = lines[0] if lines else []
    missing = [name for name in COLUMNS[:3] if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown or len(set(header)) < len(header):
        raise InputError(
            f"{path}: expected a header with the columns video, dive_number, difficulty, and if "
            f"wanted start and end, found {', '.join(header) or 'nothing'}"
        )
    requests = []
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(
                f"{path}: video {number} has {len(line)} values, expected {len(header)}"
            )
        values = dict(zip(header, line, strict=True))
        values["video"] = str(path.parent / values["video"])
        requests.append(Request(**values))
    if not requests:
        raise InputError(f"{path} lists no videos")
    return requests


@dataclasses.dataclass(frozen=True, eq=False)
class Bulk:
    """What scores many videos.

    Attributes:
      scorer: what scores.
      source: dives whose scores are known.
      choice: how many of them a video is compared with.
      known: their encodings; those that are missing are made when they are needed.
      read: gives the clip of a video's part, and raises InputError where it cannot be read.
      made_with: tells results of other weights or settings apart.
      warning: what is to be said of every score.
      shard_size: videos a shard.
    """

    scorer: Scorer
    source: Dives
    choice: Choice
    known: dict[Key, Encoding]
    read: Callable[[str, Part], Clip]
    made_with: str = ""
    warning: str = ""
    shard_size: int = 16

    def run(self, requests: Sequence[Request], folder: pathlib.Path) -> pathlib.Path | None:
        """Scores what is not scored yet.

        Args:
          requests: the list.
          folder: for shards, and at the end for scores.csv.

        Returns:
          scores.csv, or None while another process is at work on the rest.

        Raises:
          InputError: the folder holds results of another list, other weights or settings.
        """
        self._claim(requests, folder)
        starts = range(0, len(requests), self.shard_size)
        shards = {
            folder / "shards" / f"{number:05d}.json": requests[first : first + self.shard_size]
            for number, first in enumerate(starts)
        }
        todo = [path for path in shards if not path.is_file()]
        done = sum(len(rows) for path, rows in shards.items() if path not in todo)
        shown = progress(len(requests), "scoring", "videos", initial=done)
        with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool, shown as bar:
            ahead = self._read(shards[todo[0]], pool) if todo else []
            for number, path in enumerate(todo, start=1):
                # The next shard is decoded while this one is encoded.
                after = shards[todo[number]] if number < len(todo) else []
                videos, ahead = ahead, self._read(after, pool)
                with _claimed(path) as is_mine:
                    if is_mine and not path.is_file():
                        _write_json(path, self._score(shards[path], videos))
                bar.update(len(shards[path]))
        if not all(path.is_file() for path in shards):
            return None
        return _write_csv(folder / "scores.csv", list(shards))

    def _claim(self, requests: Sequence[Request], folder: pathlib.Path) -> None:
        text = json.dumps([dataclasses.astuple(one) for one in requests])
        index = {
            "list": hashlib.sha256(text.encode()).hexdigest(),
            "made_with": self.made_with,
            "shard_size": self.shard_size,
        }
        path = folder / INDEX
        if path.is_file():
            found = read_json(path, "an index of scored videos", _MEND)
            if found != index:
                raise InputError(
                    f"{folder} holds scores of another list of videos, of other weights or "
                    f"settings: {_MEND}"
                )
        else:
            _write_json(path, index)

    def _read(
        self, requests: Sequence[Request], pool: concurrent.futures.Executor
    ) -> list[concurrent.futures.Future[Announced]]:
        return [pool.submit(self._announced, row, one) for row, one in enumerate(requests)]

    def _score(
        self,
        requests: Sequence[Request],
        videos: Sequence[concurrent.futures.Future[Announced]],
    ) -> list[dict[str, Any]]:
        """A result a video, in their order."""
        dives: dict[int, Announced] = {}
        results: list[dict[str, Any]] = [{"video": one.video} for one in requests]
        for row, future in enumerate(videos):
            try:
                dives[row] = future.result()
            except InputError as error:
                results[row]["error"] = str(error)
        # In whole batches, so that the encoder is never fed one video at a time.
        clips = ClipList([dive.clip for dive in dives.values()])
        quiet = dataclasses.replace(self.scorer, progress=False)
        encoded = dict(quiet.encode(clips, range(len(clips)))) if dives else {}
        needed = sorted(
            {
                row
                for dive in dives.values()
                for row in new_dive.choose_exemplars(
                    dive.dive_number, dive.clip.key, self.source.infos, self.choice
                ).rows
                if self.source.infos[row].key not in self.known
            }
        )
        self.known.update(quiet.encode(self.source, needed))
        for row, dive in dives.items():
            try:
                known = {**self.known, dive.clip.key: encoded[dive.clip.key]}
                scored = new_dive.score_new(quiet, dive, self.source, self.choice, known)
            except InputError as error:
                results[row]["error"] = str(error)
                continue
            results[row] |= {
                "score": scored.score,
                "completeness": scored.completeness,
                "spread": scored.spread,
                "exemplars": len(scored.votes),
                "warning": "; ".join(
                    text
                    for text, is_so in (
                        (self.warning, bool(self.warning)),
                        ("no exemplars of its dive number", not scored.is_own_number),
                        ("unlike the bank", scored.is_far),
                    )
                    if is_so
                ),
            }
        return results

    def _announced(self, row: int, request: Request) -> Announced:
        dive = request.announced(self.read(request.video, request.part()))
        # What is sampled is kept, the rest of a long video is let go.
        clip, frames = dive.clip, self.scorer.preprocessing.frames
        rows = np.unique(sample_frames(clip.frame_numbers, frames, timed=clip.timed))
        kept = clip.frames[rows] if isinstance(clip.frames, np.ndarray) else None
        small = dataclasses.replace(
            clip,
            key=(pathlib.Path(request.video).name, row),
            frame_numbers=clip.frame_numbers[rows],
            frames=tuple(clip.frames[at] for at in rows) if kept is None else kept,
            masks=None,
            timed=True,  # so that what was between them is not missed
        )
        return dataclasses.replace(dive, clip=small)


class _claimed:
    """Holds a shard; False where another process has it."""

    def __init__(self, path: pathlib.Path):
        import filelock

        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(path.with_suffix(".lock"), timeout=0)
        self._busy = filelock.Timeout

    def __enter__(self) -> bool:
        try:
            self._lock.acquire()
        except self._busy:
            return False
        return True

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"the {name} is {text!r}, expected a number") from None


def _write_json(path: pathlib.Path, content: Any) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


def _write_csv(path: pathlib.Path, shards: Sequence[pathlib.Path]) -> pathlib.Path:
    text = io.StringIO()
    table = csv.DictWriter(text, RESULTS, restval="", lineterminator="\n")
    table.writeheader()
    for shard in shards:
        rows = read_json(shard, "results of a shard", f"delete {shard} and run again")
        try:
            table.writerows(rows)
        except (ValueError, AttributeError, TypeError) as error:
            raise not_expected(
                shard, "results of a shard", error, f"delete {shard} and run again"
            ) from error
    return write_atomically(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))
