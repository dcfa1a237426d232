"""Build the data set that training and evaluation read from a FineDiving-HM release.

Reads config.data.manual_dir (the real release or a rendered one), checks all of it, and writes
config.data.data_dir: the release's JPEG bytes, or with --config.data.stored=resized pixels that are
already resized, which are read several times faster and give the same results. Stops with one error
that lists every problem, or leaves the dives concerned out with --skip_bad and lists them in
skipped.json of the data set. A data set of the same annotations and size is kept, and the command
says so; --overwrite builds it again.
"""

from __future__ import annotations

from typing import Any

from absl import flags as absl_flags

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines the flags of this command."""
    absl_flags.DEFINE_bool(
        "skip_bad", False, "leave dives with problems out and list them in skipped.json"
    )
    absl_flags.DEFINE_bool(
        "overwrite",
        False,
        "build in any case: replaces a data set of another release or size, one with skipped "
        "dives, or one whose frames or masks were corrected since",
    )


def run(flags: Any) -> int:
    """Builds the data set.

    Args:
      flags: `flags.config.data` has `manual_dir`, `data_dir`, `stored` and the sizes;
        `flags.skip_bad`, `flags.overwrite`.

    Returns:
      The exit code, 0.

    Raises:
      InputError: the release has problems, or another data set is in the way.
    """
    from finecausal_jax.data.dives import SPLITS, TABLE_KEY
    from finecausal_jax.runtime.json_files import read_json
    from finecausal_jax.settings import read, things
    from tfds_finecausal import building
    from tfds_finecausal.annotations import Folders
    from tfds_finecausal.release import SKIPPED

    settings = read(flags.config)
    data = settings.data
    folder = building.build_dataset(
        data.manual_dir,
        data.data_dir,
        resize=things.stored_resize(settings),
        skip_bad=flags.skip_bad,
        overwrite=flags.overwrite,
        progress=True,
        say=print,
        folders=Folders(data.frames_folder, data.masks_folder, data.annotations_folder, data.masks),
    )
    again = "build again with --overwrite"
    table = read_json(folder / "metadata.json", "a data set's metadata", again)[TABLE_KEY]
    counts = ", ".join(f"{len(table[split])} {split} dives" for split in SPLITS)
    print(f"data set in {folder}: {counts}")
    skipped = folder / SKIPPED
    if skipped.is_file():
        dives = len({row["where"] for row in read_json(skipped, "a list of problems", again)})
        print(f"left out {dives} dives, listed in {skipped}")
    return 0
