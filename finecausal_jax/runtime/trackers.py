"""Services that keep experiments, as receivers of a run's numbers; each comes with an extra."""

from __future__ import annotations

import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.metrics_log import Tracker

NAMES = ("none", "wandb", "mlflow")


def check_tracker(name: str) -> None:
    """Raises InputError where a tracker's package is not installed."""
    if name != "none":
        _package(name)


def make_tracker(
    name: str, workdir: str | os.PathLike[str], *, config: Mapping[str, Any]
) -> Tracker:
    """Starts or goes on with the record of a run.

    Args:
      name: "wandb" or "mlflow"; where the service is and who asks is up to its own settings.
      workdir: the run's folder, whose name is the run's; wandb keeps its files there.
      config: the run's, shown with it.

    Raises:
      InputError: the package is not installed.
    """
    folder = pathlib.Path(workdir).absolute()
    return {"wandb": _Wandb, "mlflow": _MLflow}[name](_package(name), folder, config)


class _Wandb:
    """Weights & Biases; a run that is gone on with keeps its record."""

    def __init__(self, wandb: Any, folder: pathlib.Path, config: Mapping[str, Any]):
        self._run = wandb.init(
            project="finecausal_jax",
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
            id=_identity(folder),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes one row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Waits until all rows have arrived."""
        self._run.finish()


class _MLflow:
    """MLflow; the record of a run that is gone on with is found by a tag with its identity."""

    def __init__(self, mlflow: Any, folder: pathlib.Path, config: Mapping[str, Any]):
        self._mlflow = mlflow
        mlflow.set_experiment("finecausal_jax")
        identity = _identity(folder)
        found = mlflow.search_runs(
            filter_string=f"tags.workdir = '{identity}'", output_format="list", max_results=1
        )
        known = found[0].info.run_id if found else None
        mlflow.start_run(run_id=known, run_name=folder.name, tags={"workdir": identity})
        if not known:
            mlflow.log_params(_flat(config))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes one row."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """Ends the record."""
        self._mlflow.end_run()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"config.train.tracker is {name!r}, which is not installed ({error}): "
            f"pip install -e '.[{name}]', or leave the key at 'none'"
        ) from error


def _identity(folder: pathlib.Path) -> str:
    """The run's own identity, kept in its folder, so that it may be moved and renamed."""
    path = folder / "tracker_id"
    if not path.is_file():
        path.write_text(os.urandom(8).hex())
    return path.read_text().strip()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
