"""A run's folder and the settings that it was begun with."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import read_json
from finecausal_jax.settings import config as configs
from finecausal_jax.settings.schema import FIXED_IN_SCORING, FIXED_ON_RESUME, Affects, Settings

CONFIG_FILE = "config.json"


def saved_settings(workdir: str | os.PathLike[str]) -> Settings | None:
    """The settings that a workdir's run began with; None where it has none.

    Raises:
      InputError: the file is no config.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        return None
    mend = "put the run's config.json back, or choose a new --workdir"
    return configs.from_tree(read_json(path, "the config of a run", mend), str(path))


def claim(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Writes the settings into a new workdir; refuses one that others began."""
    refuse_other_run(workdir, settings)
    text = configs.to_json(settings)
    write_atomically(
        pathlib.Path(workdir) / CONFIG_FILE, lambda temporary: temporary.write_text(text)
    )


def refuse_other_run(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Raises InputError where a run cannot go on under these settings; lists what differs."""
    changed = _changed(saved_settings(workdir), settings, FIXED_ON_RESUME)
    if changed:
        raise InputError(
            f"workdir {workdir} was begun with another config; choose a new --workdir, or set "
            "back:\n  " + "\n  ".join(changed)
        )


def refuse_other_network(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Raises InputError where weights would be read into a network they were not trained in."""
    refuse_other_settings(workdir, saved_settings(workdir), settings)


def refuse_other_settings(
    where: str | os.PathLike[str], saved: Settings | None, settings: Settings
) -> None:
    """Raises InputError where `settings` are of another network than the `saved` ones of `where`.

    Of the keys compared some change no parameter's shape, so that scores would look plausible.
    """
    changed = _changed(saved, settings, FIXED_IN_SCORING)
    if changed:
        raise InputError(
            f"the network of {where} was trained under another config; give that one, or set "
            "back:\n  " + "\n  ".join(changed)
        )


def _changed(saved: Settings | None, settings: Settings, fixed: Collection[Affects]) -> list[str]:
    return [] if saved is None else configs.differences(saved, settings, fixed)
