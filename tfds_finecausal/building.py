"""Builds the data set from a release, so that an interrupted build leaves nothing half-made."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from finecausal_jax.data.dives import (
    FINGERPRINT_KEY,
    OLDER_VERSIONS,
    RELEASE,
    RESIZE_KEY,
    RESIZED,
    SPLITS,
    DiveSource,
    dataset_folder,
    refuse_damaged,
    write_record_checksums,
)
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.checksums import write_checksums
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import check_folder, write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json
from finecausal_jax.runtime.locks import only_one
from tfds_finecausal.annotations import FILES, FOLDERS, Folders, Problem, ReleaseError, grouped
from tfds_finecausal.release import SKIPPED, WARNINGS, write_problems

PROBLEMS = "problems.json"  # in the folder of data sets, of a build that failed


def build_dataset(
    manual_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    resize: Resize | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], object] = logging.info,
    folders: Folders = FOLDERS,
) -> pathlib.Path:
    """Builds `data_dir/finediving_hm/CONFIG/VERSION` from a release.

    TFDS writes into a folder of another name and renames it when it is complete. A data set that
    is already there is kept if it is whole and was built from the same annotations, to the same
    size, and with no dive left out unless that is asked for again; frames and masks of the release
    that changed since are not noticed. All that was wrong goes to `problems.json` in `data_dir`,
    if an error does not show it all.

    Args:
      manual_dir: the release.
      data_dir: where data sets go.
      resize: None keeps the release's bytes (builder config `release`), else pixels resized so are
        stored (builder config `resized`).
      skip_bad: leave dives with problems out and list them in `skipped.json` of the data set.
      overwrite: build in any case, and replace the data set that is there.
      progress: whether to show how far it is.
      say: takes a line of text where a data set is kept, and what is unusual about the release.
      folders: what the release's parts are called.

    Returns:
      The data set's folder.

    Raises:
      ReleaseError: the release has problems; lists them all.
      InputError: the release or a split is empty, another build is under way in `data_dir`, or that
        has a data set that is damaged, of another release or size or with skipped dives, and
        `overwrite` is off.
    """
    root, data_dir = pathlib.Path(manual_dir).absolute(), pathlib.Path(data_dir).absolute()
    check_folder(data_dir, "config.data.data_dir")
    stored = RELEASE if resize is None else RESIZED
    folder = dataset_folder(data_dir, stored)
    with only_one(data_dir, "a build"):
        print_of_release = fingerprint(root, folders)
        _clear_leftovers(folder)
        if folder.exists() and not overwrite:
            _refuse_other(folder, print_of_release, resize, skip_bad, root)
            say(f"kept as it is: {folder} has the annotations of {root}; --overwrite builds again")
            return folder
        builder = _builder(stored, data_dir)
        if not root.is_dir():
            raise InputError(f"no release in {root}.\n{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        if resize is not None:
            builder.resize = resize
        builder.skip_bad, builder.progress = skip_bad, progress
        builder.fingerprint, builder.folders = print_of_release, folders
        try:
            with _set_aside(folder):
                _build(builder, root)
                write_record_checksums(folder)
                write_checksums(folder)
        except ReleaseError as error:
            raise _with_file(error, data_dir / PROBLEMS) from error
    if (folder / WARNINGS).is_file():
        rows = read_json(folder / WARNINGS, "a list of problems", "build again with --overwrite")
        unusual = [Problem(**row) for row in rows]
        say(f"{len(unusual)} things are unusual, all in {folder / WARNINGS}:\n{grouped(unusual)}")
    for version in OLDER_VERSIONS:
        if folder.with_name(version).exists():
            say(f"{folder.with_name(version)} is of an older version and read no more: delete it")
    return folder


def _builder(stored: str, data_dir: pathlib.Path) -> Any:
    from tfds_finecausal.finediving_hm.finediving_hm_dataset_builder import Builder

    return Builder(config=stored, data_dir=data_dir)


def _build(builder: Any, root: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    # What `progress` shows tells more than TFDS's own bars.
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as nothing_to_download:
        builder.download_and_prepare(
            download_dir=nothing_to_download,
            download_config=tfds.download.DownloadConfig(manual_dir=root, try_download_gcs=False),
        )


def _refuse_other(
    folder: pathlib.Path,
    print_of_release: str,
    resize: Resize | None,
    skip_bad: bool,
    root: pathlib.Path,
) -> None:
    """Raises InputError where the data set that is there is not the one that is asked for."""
    refuse_damaged(folder)
    metadata = read_json(
        folder / "metadata.json", "a data set's metadata", "build again with --overwrite"
    )
    try:
        size = metadata.get(RESIZE_KEY)
        found = None if size is None else Resize(**size)
        same_release = metadata.get(FINGERPRINT_KEY) == print_of_release
    except (TypeError, AttributeError) as error:
        raise not_expected(
            folder / "metadata.json", "a data set's metadata", error, "build again with --overwrite"
        ) from error
    if not same_release:
        reason = f"was built from another release than {root}"
    elif found != resize:
        reason = f"has images resized to {found}, the config asks for {resize}"
    elif (folder / SKIPPED).exists() and not skip_bad:
        # They may have been put right since, which the annotations do not tell.
        reason = f"lacks dives that had problems, listed in its {SKIPPED}"
    else:
        for split in SPLITS:
            DiveSource(folder.parents[2], split, resize=resize)  # it can be read
        return
    raise InputError(
        f"{folder} {reason}: pass --overwrite to replace it, or choose another config.data.data_dir"
    )


def _with_file(error: ReleaseError, path: pathlib.Path) -> ReleaseError:
    """The same error, with a file of all problems where its text does not show them all."""
    if all(str(problem) in str(error) for problem in error.problems):
        return error
    write_atomically(path, lambda partial: write_problems(error.problems, partial))
    error.args = (f"{error}\nAll of them are in {path}.",)
    return error


def fingerprint(manual_dir: pathlib.Path, folders: Folders = FOLDERS) -> str:
    """Returns a text that tells releases apart.

    It is a hash of the annotations and of the settings of a rendered release. Images are not read,
    so that a data set is kept at once; a build hashes them for itself.
    """
    digest = hashlib.sha256(b"all")
    # By the names of the first copies, whatever the folder is called here.
    files = {f"Annotations/{file}": f"{folders.annotations}/{file}" for file in FILES.values()}
    for name, place in {**files, "RENDERED.json": "RENDERED.json"}.items():
        with contextlib.suppress(OSError):
            digest.update(name.encode() + (manual_dir / place).read_bytes())
    return digest.hexdigest()


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
