"""Builds the data set from a release, so that an interrupted build leaves nothing half-made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from finecausal_jax.data.dives import RELEASE, RESIZE_KEY, RESIZED, dataset_folder
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.annotations import FILES


def build_dataset(
    manual_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    resize: Resize | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], object] = logging.info,
) -> pathlib.Path:
    """Builds `data_dir/finediving_hm/CONFIG/VERSION` from a release.

    TFDS writes into a folder of another name and renames it when it is complete. A data set that
    is already there is kept if it was built from the same annotations, to the same size, without
    skipping any dive; frames and masks that changed since are not noticed.

    Args:
      manual_dir: the release.
      data_dir: where data sets go.
      resize: None keeps the release's bytes (builder config `release`), else pixels resized so are
        stored (builder config `resized`).
      skip_bad: leave dives with problems out and list them in `skipped.json` of the data set.
      overwrite: build in any case, and replace the data set that is there.
      progress: whether to show how far it is.
      say: takes a line of text where a data set is kept.

    Returns:
      The data set's folder.

    Raises:
      ReleaseError: the release has problems; lists them all.
      InputError: the release or a split is empty, or `data_dir` has a data set of another release
        or size or with skipped dives, and `overwrite` is off.
    """
    root, data_dir = pathlib.Path(manual_dir).absolute(), pathlib.Path(data_dir).absolute()
    stored = RELEASE if resize is None else RESIZED
    folder = dataset_folder(data_dir, stored)
    print_of_release = fingerprint(root, skip_bad=skip_bad)
    _clear_leftovers(folder)
    if folder.exists() and not overwrite:
        # Skipped dives may have been put right since, which the fingerprint does not tell.
        complete = not (folder / "skipped.json").exists()
        metadata = _metadata(folder)
        size = metadata.get(RESIZE_KEY)
        found = None if size is None else Resize(**size)
        same_release = complete and metadata.get("fingerprint") == print_of_release
        if same_release and found == resize:
            say(f"kept as it is: {folder} has the annotations of {root}; --overwrite builds again")
            return folder
        reason = (
            f"has images resized to {found}, the config asks for {resize}"
            if same_release
            else f"was built from another release than {root}, or has skipped dives"
        )
        raise InputError(
            f"{folder} {reason}: "
            "pass --overwrite to replace it, or choose another config.data.data_dir"
        )
    import tensorflow_datasets as tfds

    from tfds_finecausal.finediving_hm.finediving_hm_dataset_builder import Builder

    if not root.is_dir():
        raise InputError(f"no release in {root}.\n{Builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    with _set_aside(folder), tempfile.TemporaryDirectory() as nothing_to_download:
        builder = Builder(config=stored, data_dir=data_dir)
        if resize is not None:
            builder.resize = resize
        builder.skip_bad = skip_bad
        builder.progress = progress
        builder.fingerprint = print_of_release
        # What `progress` shows tells more than TFDS's own bars.
        tfds.disable_progress_bar()
        builder.download_and_prepare(
            download_dir=nothing_to_download,
            download_config=tfds.download.DownloadConfig(manual_dir=root, try_download_gcs=False),
        )
    return folder


def fingerprint(manual_dir: pathlib.Path, *, skip_bad: bool = False) -> str:
    """Returns a text that tells releases apart.

    It is a hash of the annotations and of the settings of a rendered release. Images are not read,
    so that a data set is kept at once; a build hashes them for itself.
    """
    digest = hashlib.sha256(b"skip" if skip_bad else b"all")
    for name in (*(f"Annotations/{file}" for file in FILES.values()), "RENDERED.json"):
        with contextlib.suppress(OSError):
            digest.update(name.encode() + (manual_dir / name).read_bytes())
    return digest.hexdigest()


def _metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the data set's metadata; nothing where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "metadata.json").read_text())
    return {}


def _clear_leftovers(folder: pathlib.Path) -> None:
    """Removes what a killed build left: TFDS's unfinished folders and a data set set aside."""
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f".{folder.name}.replaced")


@contextlib.contextmanager
def _set_aside(folder: pathlib.Path) -> Iterator[None]:
    """Moves an older data set away, and back again if the new one fails."""
    aside = _aside(folder)
    if folder.exists():
        folder.rename(aside)
    try:
        yield
    except BaseException:
        if aside.exists():
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
