"""Render a synthetic release in FineDiving-HM's layout, to run everything without the real data.

Writes config.data.manual_dir from config.rendered (number of dives, frame size, seed, ...). The
folder is replaced only if this command made it; with unchanged settings it is kept. The same as
`python -m tfds_finecausal.rendered`, which takes flags instead of a config.
"""

from __future__ import annotations

import dataclasses
from typing import Any

NEEDS_CONFIG = True


def define_flags() -> None:
    """This command has no flags of its own: everything is in the config."""


def run(flags: Any) -> int:
    """Renders the release.

    Args:
      flags: `flags.config` has `rendered` (arguments of `render_release`) and `data.manual_dir`.

    Returns:
      The exit code, 0.

    Raises:
      InputError: a setting is out of range, or the folder holds something else.
    """
    from finecausal_jax.settings import read
    from tfds_finecausal import rendered

    settings = read(flags.config)
    options = dataclasses.asdict(settings.rendered)
    folder = rendered.render_release(settings.data.manual_dir, **options)
    print(f"rendered (not real) release in {folder}")
    return 0
