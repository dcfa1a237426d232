"""The test protocol: every query against several exemplars, each video encoded once.

The reference runs the whole network once a pair, so with 10 exemplars it encodes a query 10 times.
The encoders see one video at a time, so here each video passes them once, and pairs are compared
from the stored features (`features`). The result is the same.

Work can be split by queries: `score_dives` of any rows gives the rows' results, and `summarize` of
all results together gives the metrics. Encodings made elsewhere, such as stored features of the
training dives, are passed in as `encodings` and not made again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from finecausal_jax.data import exemplars as exemplar_choice
from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.data.sources import Dives, SelectedDives
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import baselines as baseline_predictors
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.features import Comparison, Encoding, Key
from finecausal_jax.scoring.metrics import MaskCounts
from finecausal_jax.scoring.scorer import Score, Scorer, make_score


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which exemplars a query meets.

    Attributes:
      exemplars: how many; fewer where its dive number has fewer training dives.
      seed: fixes which.
    """

    exemplars: int = 10
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class DiveScore(Score):
    """The result of one query beside what is known of it; `k` is its number of exemplars.

    Attributes:
      key: (competition, index) of the query.
      dive_number: its dive number.
      difficulty: its degree of difficulty.
      score: its true score, points.
      true_transitions: int64 [2], labelled ones.
      tious: float64 [k], temporal IoU of the predicted and the labelled transitions.
      counts: pixel counts of both videos' masks, over all pairs; of no frame where none has one.
    """

    key: Key
    dive_number: str
    difficulty: float
    score: float
    true_transitions: np.ndarray
    tious: Float[np.ndarray, " k"]
    counts: MaskCounts

    @property
    def completeness(self) -> float:
        """True score over difficulty, points."""
        return self.score / self.difficulty

    @property
    def predicted_completeness(self) -> float:
        """Predicted score over difficulty, points."""
        predicted = self.predicted_target
        return predicted / self.difficulty if self.target == "score" else predicted

    @property
    def predicted_score(self) -> float:
        """Points; where completeness was regressed, that times difficulty."""
        return self.points(self.difficulty)

    @property
    def tiou(self) -> float:
        """Mean over the exemplars."""
        return float(np.mean(self.tious))


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of a split.

    Attributes:
      dives: one result a query, in the order of the test split's rows.
      metrics: name -> value, see `summarize`.
      baselines: predictor that sees no pixel -> `metrics.score_metrics` of it.
      calibration: results of dives that were kept out of training, to learn the width of the
        scores' intervals on; empty where there are none.
      masks: see `masks.judge_masks`; empty where that was not asked for.
      truth: see `truth.compare_with_truth`; empty where that was not asked for.
    """

    dives: tuple[DiveScore, ...]
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    calibration: tuple[DiveScore, ...] = ()
    masks: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    truth: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


def evaluate(
    scorer: Scorer,
    queries: Dives,
    exemplars: Dives,
    choice: Choice,
    *,
    rows: Sequence[int] | None = None,
    encodings: Mapping[Key, Encoding] | None = None,
) -> Evaluation:
    """Scores a split, and what predictors that see no pixel make of it.

    Args:
      scorer: what scores.
      queries: the dives to score.
      exemplars: the dives to compare them with.
      choice: how many of them a query meets.
      rows: rows of `queries` to score; None for all.
      encodings: encodings at hand, by key; only the other videos are decoded and encoded.

    Returns:
      One result a dive, the metrics over them and those of the baselines over the same dives.

    Raises:
      InputError: as `score_dives`.
    """
    rows = range(len(queries.infos)) if rows is None else rows
    infos = [queries.infos[row] for row in rows]
    dives = score_dives(scorer, queries, exemplars, choice, rows=rows, encodings=encodings)
    return Evaluation(
        dives=tuple(dives),
        metrics=summarize(dives),
        baselines=baseline_predictors.evaluate(infos, exemplars.infos),
    )


def evaluate_sides(
    scorer: Scorer,
    sides: Mapping[str, Dives],
    choice: Choice,
    *,
    rows: Sequence[int] | None = None,
    encodings: Mapping[Key, Encoding] | None = None,
) -> Evaluation:
    """As `evaluate`, with the calibration dives scored besides.

    Args:
      scorer, choice, rows, encodings: as for `evaluate`.
      sides: "test", the queries; "train", their exemplars; and if there are any "calibration",
        dives that were kept out of training.
    """
    test, train = sides["test"], sides["train"]
    if "calibration" not in sides:
        return evaluate(scorer, test, train, choice, rows=rows, encodings=encodings)
    rows = range(len(test.infos)) if rows is None else rows
    # In one call, so that an exemplar of both is encoded once.
    places = [(0, row) for row in rows]
    places += [(1, row) for row in range(len(sides["calibration"]))]
    queries = SelectedDives([test, sides["calibration"]], places, "queries")
    scored = evaluate(scorer, queries, train, choice, encodings=encodings)
    dives, infos = scored.dives[: len(rows)], queries.infos[: len(rows)]
    return Evaluation(
        dives=dives,
        metrics=summarize(dives),
        baselines=baseline_predictors.evaluate(infos, train.infos),
        calibration=scored.dives[len(rows) :],
    )


def score_dives(
    scorer: Scorer,
    queries: Dives,
    exemplars: Dives,
    choice: Choice,
    *,
    rows: Sequence[int] | None = None,
    encodings: Mapping[Key, Encoding] | None = None,
) -> list[DiveScore]:
    """Compares every query with its exemplars.

    Args:
      scorer, queries, exemplars, choice, rows, encodings: as for `evaluate`.

    Returns:
      One result a row, in the order of `rows`.

    Raises:
      InputError: there is nothing to score, a query has no exemplar, a dive cannot be decoded, or
        a prediction is not finite; the text names the dive.
    """
    rows = range(len(queries.infos)) if rows is None else rows
    infos = [queries.infos[row] for row in rows]
    if not infos:
        raise InputError("there are no dives to evaluate: the split or the list of rows is empty")
    known_dives = exemplars.infos
    chosen = [
        exemplar_choice.evaluation_exemplars(
            info, known_dives, count=choice.exemplars, seed=choice.seed
        )
        for info in infos
    ]
    known = dict(encodings or {})
    missing = [row for row, info in zip(rows, infos, strict=True) if info.key not in known]
    known.update(scorer.encode(queries, missing, "queries"))
    needed = sorted({int(row) for picked in chosen for row in picked})
    missing = [row for row in needed if known_dives[row].key not in known]
    known.update(scorer.encode(exemplars, missing, "exemplars"))

    pairs = [
        (info.key, known_dives[row].key)
        for info, picked in zip(infos, chosen, strict=True)
        for row in picked
    ]
    compared = scorer.compare(known, pairs)
    results, first = [], 0
    for info, picked in zip(infos, chosen, strict=True):
        share = slice(first, first + len(picked))
        part = jax.tree.map(lambda values, share=share: values[share], compared)
        partners = [known_dives[row] for row in picked]
        results.append(_dive_score(info, partners, part, known, scorer.model.target))
        first += len(picked)
    return results


def summarize(dives: Sequence[DiveScore]) -> dict[str, float]:
    """Returns the metrics over all results given.

    Args:
      dives: results, in any order, of one or several calls of `score_dives`.

    Returns:
      `spearman`, `r_l2_x100` and `execution_spearman` (see `metrics.score_metrics`); `tiou_50` and
      `tiou_75`, the shares of queries whose mean temporal IoU reaches 0.5 and 0.75; the `mask_*` of
      `metrics.mask_metrics`, over both videos of every pair that have masks, so that a video counts
      as often as it is compared, and nan where none has; `loss_aqa`, the mean over pairs of the
      squared error of delta (the query's direction only); `dives` and `pairs`, how many there were.
    """
    tious = np.array([dive.tiou for dive in dives])
    # delta - (true value of the query - that of the exemplar), pair by pair
    errors = [d.deltas - (getattr(d, d.target) - d.exemplar_targets) for d in dives]
    return {
        **metrics.score_metrics(
            [dive.predicted_completeness for dive in dives],
            [dive.score for dive in dives],
            [dive.difficulty for dive in dives],
        ),
        "tiou_50": float(np.mean(tious >= 0.5)),
        "tiou_75": float(np.mean(tious >= 0.75)),
        **metrics.mask_metrics(metrics.add_counts(dive.counts for dive in dives)),
        "loss_aqa": float(np.mean(np.concatenate(errors) ** 2)),
        "dives": len(dives),
        "pairs": sum(len(dive.deltas) for dive in dives),
    }


def _dive_score(
    query: DiveInfo,
    exemplars: Sequence[DiveInfo],
    compared: Comparison,
    encodings: Mapping[Key, Encoding],
    target: str,
) -> DiveScore:
    """Gathers a query's result from its pairs."""
    score = make_score(query.key, exemplars, compared, target)
    true = encodings[query.key].transitions.astype(np.int64)
    return DiveScore(
        **vars(score),
        key=query.key,
        dive_number=query.dive_number,
        difficulty=query.difficulty,
        score=query.score,
        true_transitions=true,
        tious=metrics.temporal_iou(score.transitions, true[None, :]),
        counts=metrics.add_counts(
            counts
            for key in score.exemplars
            for one in (query.key, key)
            if (counts := encodings[one].counts) is not None
        ),
    )
