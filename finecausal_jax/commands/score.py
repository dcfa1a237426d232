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

Many videos, without pages: --list=FILE.csv has a header and a line a video, with the columns video,
dive_number, difficulty, and if wanted start and end. The results go into scores.csv; a video that
cannot be scored has an error there. The same command goes on where it was stopped, and any number
of processes may run it on one --workdir:

    python launch.py score --config=configs/rendered.py:few --weights=rendered --workdir=runs/many \
        --list=dives.csv
"""

import pathlib
from typing import TYPE_CHECKING, Any

from finecausal_jax.commands import define_scorer
from finecausal_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from finecausal_jax.data.clips import Clip
    from finecausal_jax.data.video_files import Part

NEEDS_CONFIG = True
_FOLLOWED = 720  # rows of the frames that a diver is followed in


def define_flags() -> None:
    """Defines --video or --list, what is announced, which part of the video it is, and --bank."""
    from absl import flags

    flags.DEFINE_string("video", None, "A video file, or a folder of frames (JPEG or PNG).")
    flags.DEFINE_string("list", None, "A CSV list of videos to score, in place of --video.")
    flags.DEFINE_string("dive_number", None, "Of the dive, as announced, such as 407c.")
    flags.DEFINE_float("difficulty", None, "Degree of difficulty, as announced, 1.0 to 5.0.")
    flags.DEFINE_float("start", None, "Where the dive begins, seconds from the video's beginning.")
    flags.DEFINE_float("end", None, "Where it ends, seconds from the video's beginning.")
    flags.DEFINE_list(
        "crop", None, "The part of the picture to look at: LEFT,TOP,WIDTH,HEIGHT in pixels."
    )
    flags.DEFINE_bool(
        "follow",
        False,
        "Keep a diver in view who is small in the picture of a camera that stands still: a window "
        "goes with what moves, so that the diver is a third as high as it.",
    )
    flags.DEFINE_string(
        "calibration",
        None,
        "calibration.json of an evaluation of the same weights: gives the score an interval.",
    )
    define_scorer()


def run(flags: Any) -> int:
    """Scores; returns the exit code."""
    if flags.list:
        return _score_list(flags)
    from finecausal_jax.commands import _dive_pages
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.scoring import conformal, new_dive_report
    from finecausal_jax.scoring.new_dive import Announced
    from finecausal_jax.settings import read, things

    part = _part(flags)
    for name in ("workdir", "video", "dive_number", "difficulty"):
        if getattr(flags, name) is None:
            raise InputError(f"score needs --{name}: see `launch.py score --help`")
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    # Before the network: what is wrong with the video is said at once.
    resize = things.make_preprocessing(settings).resize
    clip, times = _read(flags.video, part, resize, follow=flags.follow)
    dive = Announced(clip, flags.dive_number, flags.difficulty)
    use_compilation_cache(settings.train.compilation_cache, folder)
    trained, scorer, train, known = _scorer(flags, settings, folder)
    calibration = None
    if flags.calibration:
        calibration = conformal.read(flags.calibration, trained.name)
    page = folder / "score.html"
    report = _dive_pages.Reporter(settings, scorer, train, known, flags.pixels).report(
        dive,
        page,
        name=pathlib.Path(flags.video).name,
        warnings=_dive_pages.warnings_for(trained.data_name),
        times=times,
        calibration=calibration,
    )
    new_dive_report.print_score(report)
    print(f"scored by {trained.name}. Look at {page}; all in {page.with_suffix('.json')}")
    return 0


def _score_list(flags: Any) -> int:
    """Scores the videos of a list."""
    import json

    from finecausal_jax.commands import _dive_pages
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.scoring import bulk
    from finecausal_jax.scoring.bank import make_fingerprint
    from finecausal_jax.scoring.protocol import Choice
    from finecausal_jax.settings import read, things

    alone = [name for name in ("video", "dive_number", "difficulty") if getattr(flags, name)]
    if alone or not flags.workdir:
        raise InputError(
            f"--list is in place of --{alone[0]}: leave one of the two out"
            if alone
            else "score needs --workdir: see `launch.py score --help`"
        )
    requests = bulk.read_requests(flags.list)
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    use_compilation_cache(settings.train.compilation_cache, folder)
    trained, scorer, train, known = _scorer(flags, settings, folder)
    resize = things.make_preprocessing(settings).resize
    choice = Choice(settings.evaluate.exemplars, settings.seed)
    made_with = json.dumps([make_fingerprint(scorer, {"train": train}), vars(choice), flags.follow])
    warning = " ".join(_dive_pages.warnings_for(trained.data_name))
    work = bulk.Bulk(
        scorer,
        train,
        choice,
        known,
        lambda video, part: _read(video, part, resize, follow=flags.follow)[0],
        made_with,
        warning,
    )
    scores = work.run(requests, folder)
    if scores is None:
        print(f"scored what nobody else was at; other processes are still at work in {folder}")
    else:
        print(f"scored {len(requests)} videos: {scores}")
    return 0


def _scorer(flags: Any, settings: Any, folder: pathlib.Path) -> tuple[Any, Any, Any, dict]:
    """The trained network, what scores with it, the exemplars' source, and the bank's features."""
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring import bank
    from finecausal_jax.settings import things

    layout = make_layout()
    train = things.open_dives(settings)["train"]
    trained = things.load_trained(settings, folder, flags.checkpoint, flags.weights, layout)
    scorer = things.make_scorer(settings, trained.variables, layout)
    known = {}
    if flags.bank:
        known = bank.load_bank(flags.bank, bank.make_fingerprint(scorer, {"train": train}))
    return trained, scorer, train, known


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


def _read(
    video: str, part: "Part", resize: Any, *, follow: bool
) -> "tuple[Clip, list[float] | None]":
    """The clip, and when its frames are shown, seconds, where that is known."""
    import dataclasses

    from finecausal_jax.data.clips import read_folder
    from finecausal_jax.data.following import cut_along, find_diver
    from finecausal_jax.data.resizing import Resize
    from finecausal_jax.data.video_files import WHOLE, read_video

    path = pathlib.Path(video)
    if not path.is_dir():
        found = read_video(path, part, resize=Resize(None, _FOLLOWED) if follow else resize)
        clip = found.clip
        if follow:
            frames = cut_along(clip.frames, find_diver(clip.frames), resize)
            clip = dataclasses.replace(clip, frames=frames, resize=resize)
        return clip, found.times.tolist()
    if part != WHOLE or follow:
        raise InputError(
            f"{path} is a folder of frames: --start, --end, --crop and --follow are for video "
            "files; keep the frames of the dive alone"
        )
    return read_folder(path), None
