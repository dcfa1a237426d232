"""Show why test dives are scored as they are: a page each, and a page that leads to them.

Each page has the dive beside its best exemplar, what the score is made of, attention, and what
interventions on the network do to the score.

    python launch.py explain --config=configs/demo.py --workdir=runs/demo_train \\
        --dives="Rendered01_10m_Platform_5judges/3"
    python launch.py explain --config=configs/rendered.py:few --weights=rendered \\
        --workdir=runs/demo --truth=data/rendered_few

Without --dives the best and the worst test dive by their true execution are shown, and with --truth
of a rendered release also the one with the largest fault in the takeoff among those that are good
otherwise. Writes into the folder dives/ of --workdir.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from finecausal_jax.commands import define_scorer
from finecausal_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finecausal_jax.data.dives import DiveInfo

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --dives, --checkpoint, --weights, --bank and --truth."""
    from absl import flags

    flags.DEFINE_list("dives", None, "Test dives to show, COMPETITION/INDEX each.")
    define_scorer()
    flags.DEFINE_string(
        "truth", None, "Folder of the rendered release that the data set was built from."
    )


def run(flags: Any) -> int:
    """Writes the pages; returns the exit code."""
    from urllib.parse import quote

    from finecausal_jax.commands import _dive_pages
    from finecausal_jax.pages import gallery
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring import bank
    from finecausal_jax.scoring.new_dive import Announced
    from finecausal_jax.settings import read, things
    from tfds_finecausal.rendered.truth import read_truth

    if not flags.workdir:
        raise InputError(
            "explain needs --workdir=DIR, the folder of a run; with --weights, of the pages"
        )
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    truth = read_truth(flags.truth) if flags.truth else {}
    sides = things.open_dives(settings)
    test, train = sides["test"], sides["train"]
    chosen = _named(flags.dives, test.infos) if flags.dives else _telling(test.infos, truth)
    use_compilation_cache(settings.train.compilation_cache, folder)
    layout = make_layout()
    trained = things.load_trained(settings, folder, flags.checkpoint, flags.weights, layout)
    scorer = things.make_scorer(settings, trained.variables, layout)
    known = {}
    if flags.bank:
        known = bank.load_bank(flags.bank, bank.make_fingerprint(scorer, {"train": train}))
    reporter = _dive_pages.Reporter(settings, scorer, train, known, flags.pixels)
    entries = []
    for row, why in chosen:
        info = test.infos[row]
        path = folder / "dives" / f"{info.competition}-{info.index}.html"
        of_dive = truth.get(info.key)
        aspects = vars(of_dive.execution).items() if of_dive is not None else ()
        report = reporter.report(
            Announced(test[row].clip, info.dive_number, info.difficulty),
            path,
            name=f"Dive {info.index} of {info.competition}",
            truth=tuple(aspects),
        )
        print(f"{why}: {report['score']:.2f} points, judges gave {info.score:.2f}: {path}")
        entries.append(gallery.Entry(why, f"dives/{quote(path.name)}", info, report["score"]))
    page = gallery.write_page(
        folder / "gallery.html",
        entries,
        data_name=settings.data_name,
        evaluation="evaluation.html" if (folder / "evaluation.html").is_file() else "",
    )
    print(f"explained by {trained.name}. Look at {page}")
    return 0


def _named(names: "Sequence[str]", infos: "Sequence[DiveInfo]") -> "list[tuple[int, str]]":
    rows = {f"{info.competition}/{info.index}": row for row, info in enumerate(infos)}
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise InputError(
            f"--dives names {unknown[0]!r}, which is no test dive: expected COMPETITION/INDEX, "
            f"such as {next(iter(rows))}"
        )
    return [(rows[name], name) for name in names]


def _telling(infos: "Sequence[DiveInfo]", truth: Any) -> "list[tuple[int, str]]":
    """A good dive, a poor one, and if the truth is known one that fails in the takeoff."""
    ranked = sorted(range(len(infos)), key=lambda row: -infos[row].completeness)
    chosen = {ranked[0]: "a good dive", ranked[-1]: "a poor dive"}
    lost = {row: truth[info.key].points_lost for row, info in enumerate(infos) if info.key in truth}
    if lost:
        most = max(lost, key=lambda row: 2 * lost[row]["takeoff"] - sum(lost[row].values()))
        chosen.setdefault(most, "a dive that fails in the takeoff")
    return list(chosen.items())
