"""Build the data set that training and evaluation read from a FineDiving-HM release.

Reads config.data.manual_dir (the real release or a rendered one), checks all of it, and writes
config.data.data_dir: the release's JPEG bytes, or with --config.data.stored=resized pixels that are
already resized, which are read several times faster and give the same results. Stops with one error
that lists every problem, or leaves the dives concerned out with --skip_bad and lists them in
skipped.json of the data set. A data set of the same annotations and size is kept, and the command
says so; --overwrite builds it again.
"""

from __future__ import annotations

import json
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
    from finecausal_jax.settings import read, things
    from tfds_finecausal import building

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
    )
    table = json.loads((folder / "metadata.json").read_text())[TABLE_KEY]
    counts = ", ".join(f"{len(table[split])} {split} dives" for split in SPLITS)
    print(f"data set in {folder}: {counts}")
    if (folder / "skipped.json").is_file():
        skipped = json.loads((folder / "skipped.json").read_text())
        dives = len({row["where"] for row in skipped})
        print(f"left out {dives} dives, listed in {folder / 'skipped.json'}")
    return 0
