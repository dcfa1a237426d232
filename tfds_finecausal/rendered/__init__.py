"""Rendered dives: a synthetic release in FineDiving-HM's layout, with the truth beside it.

`release` writes it and draws single dives, `plan` draws who dives what and how well, `judging` has
the aspects of execution, `motion` and `body` the diver's geometry, `scene` and `venue` the
pictures, `confounding` the ties between venue and quality, `truth` what is known of each dive.
"""

from tfds_finecausal.rendered.plan import DivePlan, Settings, plan_dives
from tfds_finecausal.rendered.release import draw_dive, render_release
from tfds_finecausal.rendered.truth import DiveTruth, read_truth

__all__ = [
    "DivePlan",
    "DiveTruth",
    "Settings",
    "draw_dive",
    "plan_dives",
    "read_truth",
    "render_release",
]
