"""Score a dive of your own by comparison with dives whose scores are known, and show why.

The video is trimmed to the dive, from the takeoff to the water, or --start and --end say where it
is. Dive number and difficulty are what was announced: they are not predicted. Exemplars are
training dives of that number from the built data set or, where it has none, of the dive numbers
with the most alike sub-actions, which is said.

    python launch.py score --config=configs/rendered.py:few --weights=rendered --workdir=runs/own \\
        --video=dive.mp4 --dive_number=407c --difficulty=3.2

Writes into --workdir: score.json, and score.html, a page that needs no other file: the dive beside
an exemplar, what the score is made of, attention, and what interventions on the network do to it.
With --bank=DIR the exemplars' features come from what `launch.py bank` wrote there, and it is said
whether the video is unlike all of them.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from finecausal_jax.commands import define_weights
from finecausal_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from finecausal_jax.data.clips import Clip
    from finecausal_jax.data.video_files import Part
    from finecausal_jax.explain.explanation import Seen
    from finecausal_jax.pages.dive import Shown
    from finecausal_jax.scoring.new_dive import NewScore
    from finecausal_jax.scoring.scorer import Scorer
    from finecausal_jax.settings import Settings

NEEDS_CONFIG = True
MEANINGLESS = (
    "These weights were trained on rendered dives: of a real dive this score means nothing."
)


def define_flags() -> None:
    """Defines --video, what is announced of the dive, which part of the video it is, and --bank."""
    from absl import flags

    flags.DEFINE_string("video", None, "A video file, or a folder of frames (JPEG or PNG).")
    flags.DEFINE_string("dive_number", None, "Of the dive, as announced, such as 407c.")
    flags.DEFINE_float("difficulty", None, "Degree of difficulty, as announced, 1.0 to 5.0.")
    flags.DEFINE_float("start", None, "Where the dive begins, seconds from the video's beginning.")
    flags.DEFINE_float("end", None, "Where it ends, seconds from the video's beginning.")
    flags.DEFINE_list(
        "crop", None, "The part of the picture to look at: LEFT,TOP,WIDTH,HEIGHT in pixels."
    )
    flags.DEFINE_string(
        "checkpoint", "best", "Which checkpoint of --workdir: best, latest or a step."
    )
    define_weights()
    flags.DEFINE_string(
        "bank", None, "Folder of a bank of features made from the same checkpoint and data."
    )


def run(flags: Any) -> int:
    """Scores; returns the exit code."""
    from finecausal_jax.explain import explanation
    from finecausal_jax.pages import dive as page
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring import bank, new_dive, new_dive_report
    from finecausal_jax.scoring.protocol import Choice
    from finecausal_jax.settings import read, things

    part = _part(flags)
    for name in ("workdir", "video", "dive_number", "difficulty"):
        if getattr(flags, name) is None:
            raise InputError(f"score needs --{name}: see `launch.py score --help`")
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    use_compilation_cache(settings.train.compilation_cache, folder)
    layout = make_layout()
    sides = things.open_dives(settings)
    # Before the network: what is wrong with the video is said at once.
    resize = things.make_preprocessing(settings).resize
    clip, times = _read(flags.video, part, resize)
    dive = new_dive.Announced(clip, flags.dive_number, flags.difficulty)
    trained = things.load_trained(settings, folder, flags.checkpoint, flags.weights, layout)
    scorer = things.make_scorer(settings, trained.variables, layout)
    known = {}
    if flags.bank:
        train = {"train": sides["train"]}
        known = dict(bank.load_bank(flags.bank, bank.make_fingerprint(scorer, train)))
    seen = explanation.see(scorer, clip)
    known[clip.key] = seen.encoding
    choice = Choice(settings.evaluate.exemplars, settings.seed)
    chosen = new_dive.choose_exemplars(flags.dive_number, clip.key, sides["train"].infos, choice)
    missing = [row for row in chosen.rows if sides["train"].infos[row].key not in known]
    known.update(scorer.encode(sides["train"], missing, "exemplars"))
    result = new_dive.score_new(scorer, dive, sides["train"], choice, known)
    keys = [info.key for info in result.exemplars]
    why = explanation.explain(scorer, seen.encoding, keys, known)
    warnings = [MEANINGLESS] if "rendered" in settings.data_name else []
    warnings += new_dive_report.warnings_of(result)
    report = new_dive_report.to_json(result, flags.video, times, warnings)
    report["effects"] = {one.name: [one.mean, one.spread] for one in why.effects}
    new_dive_report.print_score(report)
    table = new_dive_report.write_json(report, folder / "score.json")
    shown = _shown(settings, scorer, part, flags.video, seen, result, sides["train"])
    written = page.write_page(
        folder / "score.html",
        result,
        why,
        name=pathlib.Path(flags.video).name,
        warnings=warnings,
        shown=shown,
    )
    print(f"scored by {trained.name}. Look at {written}; all in {table}")
    return 0


def _part(flags: Any) -> "Part":
    from finecausal_jax.data.video_files import Part

    crop = None
    if flags.crop:
        try:
            left, top, width, height = (int(one) for one in flags.crop)
        except ValueError:
            raise InputError(
                f"--crop={','.join(flags.crop)}: expected LEFT,TOP,WIDTH,HEIGHT, whole numbers of "
                "pixels"
            ) from None
        crop = (left, top, width, height)
    return Part(flags.start, flags.end, crop)


def _read(video: str, part: "Part", resize: Any) -> "tuple[Clip, list[float] | None]":
    """The clip, and when its frames are shown, seconds, where that is known."""
    from finecausal_jax.data.clips import read_folder
    from finecausal_jax.data.video_files import WHOLE, read_video

    path = pathlib.Path(video)
    if not path.is_dir():
        found = read_video(path, part, resize=resize)
        return found.clip, found.times.tolist()
    if part != WHOLE:
        raise InputError(
            f"{path} is a folder of frames: --start, --end and --crop are for video files; keep "
            "the frames of the dive alone"
        )
    return read_folder(path), None


def _shown(
    settings: "Settings",
    scorer: "Scorer",
    part: "Part",
    video: str,
    seen: "Seen",
    result: "NewScore",
    train: Any,
) -> "list[Shown]":
    """What the network saw of the dive, and of the exemplar nearest to the mean vote."""
    import numpy as np

    from finecausal_jax.data.preprocessing import evaluation_video
    from finecausal_jax.pages.dive import Shown, enlarged, outlined
    from finecausal_jax.scoring import metrics

    def stages(cuts: Any, rows: Any) -> "list[tuple[int, int]]":
        """Of the frames that are shown, from those of the clip."""
        at = [int(np.searchsorted(rows, cut)) for cut in cuts]
        ends = [0, *(min(max(one, 1), len(rows) - 2) for one in at), len(rows) - 1]
        return [(ends[k], max(ends[k + 1], ends[k])) for k in range(3)]

    frames = outlined(seen.frames, seen.mask > metrics.LOGIT_THRESHOLD)
    cuts = [result.stages[1][0], result.stages[2][0]]
    shown = [Shown("This dive, as the network sees it", enlarged(frames), stages(cuts, seen.rows))]
    if settings.evaluate.thumbnails:
        nearest = int(np.argmin(np.abs(result.votes - np.mean(result.votes))))
        info = result.exemplars[nearest]
        dive = train[train.keys.index(info.key)]
        prepared = evaluation_video(dive.clip, scorer.preprocessing)
        covered = len(seen.frames)
        cuts = info.transitions(prepared.rows)  # frames of those that were sampled
        shown.append(
            Shown(
                f"Exemplar {info.index} of {info.competition}: {info.score:.2f} points",
                enlarged(prepared.frames[:covered]),
                stages(cuts, np.arange(covered)),
            )
        )
    return shown
