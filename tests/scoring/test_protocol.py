"""The test protocol on a stand-in model whose predictions can be worked out by hand."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.data import exemplars, preprocessing
from finecausal_jax.data.sources import ClipList
from finecausal_jax.scoring import metrics, protocol
from finecausal_jax.scoring.protocol import Choice


def level(source, row):
    """The stand-in's feature of a flat grey video: its mean normalised pixel."""
    pixel = np.full((1, 3), source._levels[row], np.uint8)
    return float(np.mean(preprocessing.normalize(pixel)))


def pairs_of(test_source, train_source, count):
    return [
        exemplars.evaluation_exemplars(query, train_source.infos, count=count, seed=0)
        for query in test_source.infos
    ]


def run(scorer, test_source, train_source, *, rows=None, encodings=None, **choice):
    return protocol.evaluate(
        scorer, test_source, train_source, Choice(**choice), rows=rows, encodings=encodings
    )


def test_scores_are_means_over_exemplars_times_difficulty(scorer, test_source, train_source):
    result = run(scorer, test_source, train_source, exemplars=3)
    chosen = pairs_of(test_source, train_source, 3)
    assert [len(rows) for rows in chosen] == [3, 1, 2, 3, 2]
    for row, (dive, picked) in enumerate(zip(result.dives, chosen, strict=True)):
        query = test_source.infos[row]
        assert dive.key == query.key
        assert dive.exemplars == tuple(train_source.infos[one].key for one in picked)
        delta = [3 * (level(test_source, row) - level(train_source, one)) for one in picked]
        completeness = [train_source.infos[one].completeness for one in picked]
        want = np.mean(np.add(delta, completeness)) * query.difficulty
        assert dive.predicted_score == pytest.approx(want, rel=1e-5)
        np.testing.assert_allclose(dive.deltas, delta, rtol=1e-4, atol=1e-5)
        shares = np.outer(dive.deltas, [0.3, 0.5, 0.2])
        np.testing.assert_allclose(dive.stage_deltas, shares, rtol=1e-6, atol=1e-7)


def test_metrics_follow_from_the_dives(scorer, test_source, train_source):
    result = run(scorer, test_source, train_source, exemplars=3)
    predicted = [dive.predicted_score for dive in result.dives]
    truth = [query.score for query in test_source.infos]
    assert result.metrics["spearman"] == metrics.spearman(predicted, truth)
    assert result.metrics["r_l2_x100"] == pytest.approx(100 * metrics.r_l2(predicted, truth))
    assert (result.metrics["dives"], result.metrics["pairs"]) == (5, 11)
    errors = []
    for dive in result.dives:
        for delta, known in zip(dive.deltas, dive.exemplar_completeness, strict=True):
            errors.append((delta - (dive.score / dive.difficulty - known)) ** 2)
    assert result.metrics["loss_aqa"] == pytest.approx(np.mean(errors))


def test_tiou_is_averaged_over_the_exemplars_of_a_query(scorer, test_source, train_source):
    # Labels change at frames 2 and 4 of 8. (2, 6) overlaps by 2 of 4, (1, 6) by 2 of 5.
    result = run(scorer, test_source, train_source, exemplars=4)
    for dive in result.dives:
        np.testing.assert_array_equal(dive.true_transitions, [2, 4])
        np.testing.assert_array_equal(dive.transitions[:, 0], np.where(dive.deltas > 0, 1, 2))
        assert dive.tiou == pytest.approx(np.mean(np.where(dive.deltas > 0, 0.4, 0.5)))
    reached = [bool((dive.deltas <= 0).all()) for dive in result.dives]
    assert 0 < sum(reached) < 5
    assert result.metrics["tiou_50"] == sum(reached) / 5
    assert result.metrics["tiou_75"] == 0.0


def test_masks_count_both_videos_of_every_pair(scorer, test_source, train_source):
    result = run(scorer, test_source, train_source, exemplars=3)
    total = metrics.MaskCounts(0, 0, 0, 0, 0.0, 0)
    for row, picked in enumerate(pairs_of(test_source, train_source, 3)):
        for one in picked:
            for source, index in ((test_source, row), (train_source, int(one))):
                # Foreground wherever the whole frame's red is bright; true in the upper rows.
                red = (source._levels[index] / 255 - 0.485) / 0.229
                rows = 1 + source._levels[index] % 5
                pixels = 8 * 8 * np.array([rows, 8 - rows])  # 2 windows of 4 frames, 8 columns
                found = bool(red >= 0.5)
                part = (*(pixels * found), *(pixels * (not found)), 8.0 * found, 8)
                total = metrics.MaskCounts(*np.add(total, part))
    assert min(total[:4]) > 0
    want = metrics.mask_metrics(total)
    assert {name: result.metrics[name] for name in want} == pytest.approx(want)


@pytest.mark.parametrize(("video_batch", "pair_batch"), [(1, 1), (2, 3)])
def test_padding_changes_no_metric(scorer, test_source, train_source, video_batch, pair_batch):
    want = run(scorer, test_source, train_source)
    other = dataclasses.replace(scorer, video_batch=video_batch, pair_batch=pair_batch)
    got = run(other, test_source, train_source)
    # Another batch shape sums in another order: float32 keeps about 1e-6, squared errors less.
    assert got.metrics == pytest.approx(want.metrics, rel=1e-5)
    for name in ("mask_iou", "mask_f1", "mask_f2", "mask_accuracy", "tiou_50", "pairs"):
        assert got.metrics[name] == want.metrics[name]


def test_the_order_and_the_split_of_the_work_change_nothing(scorer, test_source, train_source):
    work = (scorer, test_source, train_source, Choice())
    whole = protocol.score_dives(*work)
    first = protocol.score_dives(*work, rows=[3, 1])
    second = protocol.score_dives(*work, rows=[4, 0, 2])
    assert [dive.key[1] for dive in first] == [53, 51]
    assert protocol.summarize(second + first) == pytest.approx(protocol.summarize(whole), rel=1e-6)


def test_each_video_is_read_once_and_only_needed_exemplars(scorer, test_source, train_source):
    run(scorer, test_source, train_source, exemplars=1)
    assert test_source.read == [0, 1, 2, 3, 4]
    needed = {int(row) for rows in pairs_of(test_source, train_source, 1) for row in rows}
    assert train_source.read == sorted(needed)
    assert len(needed) < len(train_source.infos)


def test_scoring_says_how_far_it_is(scorer, test_source, train_source, capsys):
    """Where standard error is no terminal, as in a log: a line at each beginning and end."""
    shown = dataclasses.replace(scorer, progress=True)
    protocol.score_dives(shown, test_source, train_source, Choice(exemplars=1))
    needed = len({int(row) for rows in pairs_of(test_source, train_source, 1) for row in rows})
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == [
        "encoding queries: 0 of 5 videos",
        "encoding queries: 5 of 5 videos",
        f"encoding exemplars: 0 of {needed} videos",
        f"encoding exemplars: {needed} of {needed} videos",
        "comparing: 0 of 5 pairs",
        "comparing: 5 of 5 pairs",
    ]


def test_given_encodings_are_used_as_they_are(scorer, test_source, train_source):
    want = run(scorer, test_source, train_source)
    bank = dict(scorer.encode(train_source, range(7)))
    assert set(bank) == {one.key for one in train_source.infos}
    assert bank[("Cup_0", 0)].features.mask_logits is None
    assert bank[("Cup_0", 0)].features.frame_feature.shape == (8, 1)
    train_source.read.clear()
    got = run(scorer, test_source, train_source, encodings=bank)
    assert train_source.read == []
    # Another batch shape sums in another order: float32 keeps about 1e-6, squared errors less.
    assert got.metrics == pytest.approx(want.metrics, rel=1e-5)


def test_a_training_dive_is_not_its_own_exemplar(scorer, train_source):
    result = run(scorer, train_source, train_source)
    for dive in result.dives[:6]:
        assert dive.key not in dive.exemplars
    assert result.dives[6].exemplars == (result.dives[6].key,)  # the only one of its number
    assert sorted(train_source.read) == list(range(7))


def test_a_second_evaluation_compiles_nothing(make_model, scorer, test_source, train_source):
    model = make_model(name="counted")
    counted = dataclasses.replace(scorer, model=model, video_batch=3, pair_batch=5)
    for weight in (1.0, 2.0):
        weighted = dataclasses.replace(counted, variables={"weight": jnp.float32(weight)})
        run(weighted, test_source, train_source)
    assert model.traced == [("encode", 3), ("compare", 5)]


def test_a_graph_over_the_batch_sees_one_pair_at_a_time(
    make_model, scorer, test_source, train_source
):
    model = make_model(graph_scope="batch", name="batch")
    run(dataclasses.replace(scorer, model=model, pair_batch=5), test_source, train_source)
    assert model.traced[-1] == ("compare", 1)


def test_a_batch_that_the_devices_cannot_share_is_refused(scorer):
    layout = dataclasses.replace(scorer.layout, mesh=types.SimpleNamespace(shape={"data": 2}))
    with pytest.raises(ValueError, match="pair_batch is 5, which 2 devices cannot share evenly"):
        dataclasses.replace(scorer, layout=layout, pair_batch=5)


def test_another_seed_chooses_other_exemplars(scorer, test_source, train_source):
    chosen = {
        seed: [
            dive.exemplars
            for dive in run(scorer, test_source, train_source, exemplars=2, seed=seed).dives
        ]
        for seed in (0, 1)
    }
    assert chosen[0] != chosen[1]


def test_a_prediction_that_is_no_number_names_the_dive(scorer, test_source, train_source):
    broken = dataclasses.replace(scorer, variables={"weight": jnp.float32(np.nan)})
    with pytest.raises(ValueError, match=r"dive \('Cup_1', 50\) is not finite, .* 4 of its 4"):
        run(broken, test_source, train_source)


def test_a_query_without_exemplar_is_named(scorer, train_source, make_info, make_source):
    lonely = make_source([make_info("Cup_3", 9, "309c", 11.0, 3.0)])
    with pytest.raises(ValueError, match=r"\('Cup_3', 9\) has dive number '309c'"):
        run(scorer, lonely, train_source)


def test_nothing_to_evaluate_is_an_error(scorer, test_source, train_source):
    with pytest.raises(ValueError, match="no dives to evaluate"):
        run(scorer, test_source, train_source, rows=[])


def test_baselines_come_along(scorer, test_source, train_source):
    result = run(scorer, test_source, train_source, rows=[0, 2, 4])
    assert set(result.baselines) == {"difficulty_only", "dive_number_mean", "competition_mean"}
    assert result.baselines["difficulty_only"]["spearman"] == pytest.approx(
        metrics.spearman([2.4, 3.0, 3.6], [test_source.infos[row].score for row in (0, 2, 4)])
    )


def test_a_clip_without_labels_and_masks_is_encoded_alike(scorer, train_source):
    bare = ClipList(
        dataclasses.replace(train_source[row].clip, key=("video", row), masks=None)
        for row in range(3)
    )
    want = dict(scorer.encode(train_source, range(3)))
    found = dict(scorer.encode(bare, range(3)))
    assert list(found) == [("video", 0), ("video", 1), ("video", 2)]
    for encoding, labelled in zip(found.values(), want.values(), strict=True):
        np.testing.assert_array_equal(
            encoding.features.video_feature, labelled.features.video_feature
        )
        assert encoding.counts is None and encoding.transitions is None
