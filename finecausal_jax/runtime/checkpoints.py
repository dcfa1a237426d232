"""Checkpoints of a run: the network, the optimiser and the place in the data, kept together.

A checkpoint holds up to four items, so that a reader loads only what it needs:

  variables: {"params", "batch_stats"}, all that evaluation needs
  optimiser: {"step", "opt_state"}, absent after a conversion
  pipeline: the input iterator's state, a few integers; absent after a conversion
  adam, unused: only after a conversion, see `finecausal_jax.interop`

Orbax writes into a temporary folder and renames it when all is there, so an interrupted save leaves
nothing that looks finished. A checkpoint that is saved again, now with an evaluation's metrics,
steps aside until the new one is there: `recover` brings it back after a kill in between.
"""

import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from finecausal_jax.runtime.errors import InputError

FOLDER = "checkpoints"
ASIDE = "checkpoints_replaced"  # steps that are being saved again
VARIABLES, OPTIMISER, PIPELINE, ADAM = "variables", "optimiser", "pipeline", "adam"
BEST_METRIC = "spearman"


class CheckpointStore:
    """The checkpoints of a workdir: the latest ones and the best by Spearman are kept.

    Args:
      workdir: the run's folder; checkpoints go to `checkpoints/<step>`.
      keep_latest: how many of the latest to keep.
      clean: remove what interrupted saves left behind. Only for the process that trains: to all
        others a save under way looks the same.
    """

    def __init__(self, workdir: str | pathlib.Path, keep_latest: int = 2, clean: bool = False):
        policies = ocp.training.preservation_policies
        self.folder = pathlib.Path(workdir).absolute() / FOLDER
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep_latest),
                    policies.BestN(
                        get_metric_fn=_ranking, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=clean,
        )
        self._saving: Any = None  # the save under way
        self._aside: pathlib.Path | None = None  # what it replaces

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
            ranked = [c for c in self._checkpointer.checkpoints if c.metrics]
            return max(ranked, key=lambda c: _ranking(c.metrics)).step if ranked else steps[-1]
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise InputError(
            f"no checkpoint {which!r} in {self.folder}; expected best, latest or one of {steps}"
        )

    def save(
        self, step: int, items: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves a checkpoint in the background; `metrics` decide which one is the best.

        A checkpoint of the same step is kept aside until the new one is complete.
        """
        self._finish()
        folder = self.folder / str(step)
        if folder.exists():
            # Orbax would delete it before it writes; a kill in between would cost both.
            self._aside = self.folder.parent / ASIDE / str(step)
            self._aside.parent.mkdir(exist_ok=True)
            folder.rename(self._aside)
            self._checkpointer.reload()  # or it would look for what it believes to be there still
        finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        self._saving = self._checkpointer.save_checkpointables_async(
            step, dict(items), metrics=finite or None
        )

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that a checkpoint was saved with; none if it was not evaluated."""
        (found,) = [c for c in self._checkpointer.checkpoints if c.step == step]
        return dict(found.metrics or {})

    def items(self, step: int) -> set[str]:
        """Names of the items that a checkpoint holds."""
        return set(self._checkpointer.checkpointables_metadata(step).metadata)

    def load(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Loads some items.

        Args:
          step: a finished checkpoint.
          abstract: for each wanted item its tree of `jax.ShapeDtypeStruct` with shardings, or None
            to take it as saved.

        Raises:
          InputError: the checkpoint's arrays do not fit; it lists each that does not.
        """
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

    def close(self) -> None:
        """Waits for saves under way and frees the checkpointer."""
        try:
            self._finish()
        finally:
            self._checkpointer.close()

    def _finish(self) -> None:
        """Waits for the save under way; raises what went wrong with it."""
        if self._saving is not None:
            self._saving.result()
        if self._aside is not None:
            shutil.rmtree(self._aside.parent)
        self._saving = self._aside = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def has_checkpoints(workdir: str | pathlib.Path) -> bool:
    """Whether a workdir has finished checkpoints; makes no folder, unlike a store."""
    return any(path.name.isdecimal() for path in (pathlib.Path(workdir) / FOLDER).glob("*"))


def recover(workdir: str | pathlib.Path) -> None:
    """Brings back a checkpoint that stood aside when a kill cut off the save of its successor.

    For the process that trains, before it opens the store.
    """
    folder = pathlib.Path(workdir)
    for aside in (folder / ASIDE).glob("*"):
        place = folder / FOLDER / aside.name
        if not place.exists():
            aside.rename(place)
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
