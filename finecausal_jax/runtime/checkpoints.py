"""Checkpoints of a run: the network, the optimiser and the place in the data, kept together.

A checkpoint holds up to four items, so that a reader loads only what it needs:

  variables: {"params", "batch_stats"}, all that evaluation needs
  optimiser: {"step", "opt_state"}, absent after a conversion
  pipeline: the input iterator's state, a few integers; absent after a conversion
  adam, unused: only after a conversion, see `finecausal_jax.interop`

Orbax writes into a temporary folder and renames it when all is there, so an interrupted save leaves
nothing that looks finished. Beside the items two small files appear later, each at once:

  checksums.json: of all other files, written when the save is finished and checked by each load
  evaluation.json: the metrics of the checkpoint, once it was evaluated
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from finecausal_jax.runtime.checksums import damaged, write_checksums
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json

FOLDER = "checkpoints"
EVALUATION = "evaluation.json"
ASIDE = "checkpoints_replaced"  # where earlier versions kept a step while they saved it again
VARIABLES, OPTIMISER, PIPELINE, ADAM = "variables", "optimiser", "pipeline", "adam"
BEST_METRIC = "spearman"
T = TypeVar("T")


class CheckpointStore:
    """The checkpoints of a workdir: the latest ones and the best by Spearman are kept.

    Args:
      workdir: the run's folder; checkpoints go to `checkpoints/<step>`.
      keep_latest: how many of the latest to keep.
      clean: remove what interrupted saves left behind. Only for the process that trains: to all
        others a save under way looks the same.

    Raises:
      InputError: a checkpoint is damaged.
    """

    def __init__(self, workdir: str | pathlib.Path, keep_latest: int = 2, clean: bool = False):
        policies = ocp.training.preservation_policies
        recover(workdir)
        self.folder = pathlib.Path(workdir).absolute() / FOLDER
        with _damage_named(self.folder):
            self._checkpointer = ocp.training.Checkpointer(
                self.folder,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep_latest), _Best(self.folder)]
                ),
                cleanup_tmp_directories=clean,
            )
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[None] | None = None  # the save under way

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, in order."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def find(self, which: str = "latest") -> int:
        """The step of the "latest" or "best" checkpoint, or of the one with a given number.

        Raises:
          InputError: there is none, or not that one.
        """
        steps = self.steps()
        if not steps:
            raise InputError(
                f"no checkpoint in {self.folder}; run `launch.py train` or `launch.py convert` "
                "with this --workdir first"
            )
        if which == "latest":
            return steps[-1]
        if which == "best":
            evaluated = {step: found for step in steps if (found := self.metrics(step))}
            if not evaluated:
                return steps[-1]
            return max(evaluated, key=lambda step: _ranking(evaluated[step]))
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise InputError(
            f"no checkpoint {which!r} in {self.folder}; expected best, latest or one of {steps}"
        )

    def save(self, step: int, items: Mapping[str, Any]) -> None:
        """Saves a new checkpoint in the background; `evaluated` may tell its metrics later."""
        self.finish()
        saving = self._checkpointer.save_checkpointables_async(step, dict(items))

        def finish() -> None:
            saving.result()
            write_checksums(self.folder / str(step), leave_out=[EVALUATION])

        self._saving = self._worker.submit(finish)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps the metrics of a checkpoint, which decide which one is the best."""
        self.finish()
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        text = json.dumps(finite, indent=1) + "\n"
        write_atomically(self.folder / str(step) / EVALUATION, lambda path: path.write_text(text))

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that a checkpoint was evaluated with; none if it was not.

        Raises:
          InputError: the file that holds them is damaged.
        """
        (found,) = [c for c in self._checkpointer.checkpoints if c.step == step]
        # Where there is no file: earlier versions kept them in Orbax's own.
        return read_evaluation(self.folder / str(step)) or dict(found.metrics or {})

    def items(self, step: int) -> set[str]:
        """Names of the items that a checkpoint holds."""
        with _damage_named(self.folder, step):
            return set(self._checkpointer.checkpointables_metadata(step).metadata)

    def load(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Loads some items.

        Args:
          step: a finished checkpoint.
          abstract: for each wanted item its tree of `jax.ShapeDtypeStruct` with shardings, or None
            to take it as saved.

        Raises:
          InputError: a file is damaged, or the checkpoint's arrays do not fit; it lists each that
            does not.
        """

        def load() -> dict[str, Any]:
            saved = self._checkpointer.checkpointables_metadata(step).metadata
            for name, tree in abstract.items():
                if name not in saved:
                    raise InputError(
                        f"checkpoint {self.folder / str(step)} has no item {name!r}, only "
                        f"{sorted(saved)}"
                    )
                if tree is not None:
                    _check_fit(self.folder / str(step), name, saved[name], tree)
            return self._checkpointer.load_checkpointables(step, dict(abstract))

        return load_undamaged(self.folder, step, abstract, load)

    def finish(self) -> None:
        """Waits for the save under way; raises what went wrong with it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Waits for saves under way and frees the checkpointer."""
        try:
            self.finish()
        finally:
            self._worker.shutdown()
            self._checkpointer.close()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def has_checkpoints(workdir: str | pathlib.Path) -> bool:
    """Whether a workdir has finished checkpoints; makes no folder, unlike a store."""
    return any(path.name.isdecimal() for path in (pathlib.Path(workdir) / FOLDER).glob("*"))


def recover(workdir: str | pathlib.Path) -> None:
    """Brings back a checkpoint that an earlier version was killed amid saving again."""
    folder = pathlib.Path(workdir)
    for aside in (folder / ASIDE).glob("*"):
        place = folder / FOLDER / aside.name
        if not place.exists():
            shutil.move(aside, place)  # `checkpoints` may be a link to another disk
    shutil.rmtree(folder / ASIDE, ignore_errors=True)


def load_variables(workdir: str | pathlib.Path, abstract: Any, which: str) -> tuple[int, Any]:
    """Loads the network of a workdir.

    Args:
      workdir: the run's folder.
      abstract: tree of `jax.ShapeDtypeStruct` with shardings, as the model wants it.
      which: "best", "latest" or a step.

    Returns:
      The step, and {"params", "batch_stats"}.
    """
    folder = pathlib.Path(workdir) / FOLDER
    if not folder.is_dir():
        raise InputError(
            f"no checkpoint in {folder}; run `launch.py train` or `launch.py convert` with this "
            "--workdir first"
        )
    with CheckpointStore(workdir) as store:
        step = store.find(which)
        return step, store.load(step, {VARIABLES: abstract})[VARIABLES]


def load_undamaged(
    folder: pathlib.Path, step: int, items: Collection[str], load: Callable[[], T]
) -> T:
    """Loads from a checkpoint while its checksums are compared beside it.

    Args:
      folder: of the checkpoints.
      step: which of them.
      items: names of the items that are loaded.
      load: loads them.

    Raises:
      InputError: a file is damaged. That comes before anything that `load` raises, for which it is
        the likely reason.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        checking = pool.submit(damaged, folder / str(step), items)
        with _damage_named(folder, step):
            try:
                return load()
            finally:
                if problems := checking.result():
                    raise _damage(folder, step, problems)


def read_evaluation(checkpoint: pathlib.Path) -> dict[str, float]:
    """The metrics beside a checkpoint's items; none if it was not evaluated.

    Raises:
      InputError: the file is damaged.
    """
    path = checkpoint / EVALUATION
    if not path.exists():
        return {}
    expected = "the metrics of a checkpoint"
    mend = "delete it, and `launch.py train` evaluates again where this is the latest checkpoint"
    content = read_json(path, expected, mend)
    try:
        return {str(name): float(value) for name, value in content.items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise not_expected(path, expected, error, mend) from error


class _Best:
    """Preserves the checkpoint with the best metrics, for Orbax."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        metrics = [
            read_evaluation(self._folder / str(one.step)) or dict(one.metrics or {})
            for one in checkpoints
        ]
        best = max((_ranking(found) for found in metrics if found), default=None)
        return [bool(found) and _ranking(found) == best for found in metrics]


@contextlib.contextmanager
def _damage_named(folder: pathlib.Path, step: int | None = None) -> Iterator[None]:
    """Turns what Orbax raises over damaged or missing files into one sentence.

    Args:
      folder: of the checkpoints.
      step: which of them is read; None where any may be.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Orbax, TensorStore and JSON raise nearly anything
        steps = _steps(folder) if step is None else [step]
        found = {one: damaged(folder / str(one)) for one in steps}
        for one, problems in found.items():
            if problems:
                raise _damage(folder, one, problems) from error
        if not steps:
            raise
        lines = str(error).strip().splitlines() or [""]
        reason = f"{folder / str(steps[-1])}: cannot be read ({type(error).__name__}: {lines[0]})"
        raise _damage(folder, steps[-1], [reason[:300]]) from error


def _damage(folder: pathlib.Path, step: int, problems: Sequence[str]) -> InputError:
    earlier = [one for one in _steps(folder) if one != step]
    if earlier:
        mend = (
            f"use another with --checkpoint={earlier[-1]}; to train on from that one, move "
            f"{folder / str(step)} away first"
        )
    else:
        mend = f"there is no other one: move {folder} away and begin again"
    shown = "\n  ".join(problems[:5])
    rest = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
    return InputError(f"checkpoint {step} is damaged; {mend}:\n  {shown}{rest}")


def _steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _ranking(metrics: Any) -> float:
    return metrics.get(BEST_METRIC, -math.inf)


def _check_fit(path: pathlib.Path, item: str, saved: Any, wanted: Any) -> None:
    """Raises InputError with every leaf that is missing, left over or of another shape."""
    found = _by_name(saved)
    expected = _by_name(wanted)
    problems = [f"{name}: missing" for name in expected.keys() - found.keys()]
    problems += [f"{name}: not in this model" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if tuple(want.shape) != tuple(have.shape):
            problems.append(f"{name}: expected {tuple(want.shape)}, found {tuple(have.shape)}")
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        rest = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise InputError(
            f"checkpoint {path}, item {item!r}, does not fit the model of this config; use the "
            f"config it was made with:\n  {shown}{rest}"
        )


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): x
        for path, x in leaves
        if hasattr(x, "shape")
    }
