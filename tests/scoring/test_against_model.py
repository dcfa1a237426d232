"""The protocol on the real network (shrunk): storing features must change nothing."""

import jax
import numpy as np
import pytest

import finecausal_jax as fc
from finecausal_jax.data import preprocessing
from finecausal_jax.scoring import bank, metrics, protocol

FRAMES, SIZE = 16, 16


@pytest.fixture
def settings():
    return preprocessing.Preprocessing(FRAMES, SIZE, resize_width=SIZE, resize_height=SIZE)


@pytest.fixture
def network():
    return fc.FineCausal(
        frames=FRAMES,
        windows=2,
        window_frames=8,
        window_stride=6,
        width=1 / 16,
        frame_width=1 / 8,
        embedding=8,
        stage_frames=(6, 8, 6),
        stage_margin=2,
    )


def weights(network):
    """Random weights and statistics without a compiled initialisation."""
    video = jax.ShapeDtypeStruct((1, FRAMES, SIZE, SIZE, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), video, video)
    rng = np.random.default_rng(5)

    def fill(path, leaf):
        spread = 1.2 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
        values = rng.normal(scale=spread, size=leaf.shape)
        if path[-1].key in ("var", "scale"):
            values = rng.uniform(0.7, 1.3, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.slow
def test_stored_features_give_what_the_whole_network_gives(
    network, settings, make_info, make_source, tmp_path
):
    train = make_source(
        [make_info("Cup", row, "107b", 15.0 + row, 3.0, frames=20) for row in range(3)], size=SIZE
    )
    test = make_source(
        [make_info("Cup", 10 + row, "107b", 16.0 + row, 3.0, frames=20) for row in range(2)],
        size=SIZE,
        levels=[90, 200],
    )
    variables = weights(network)
    sizes = {"video_batch": 2, "pair_batch": 3, "progress": False}
    scorer = fc.Scorer(network, variables, settings, **sizes)
    result = protocol.evaluate(scorer, test, train, protocol.Choice(2))

    sources = {"train": train, "test": test}
    fingerprint = bank.make_fingerprint(scorer, sources)
    bank.build_bank(tmp_path, fingerprint, scorer, sources)
    encodings = bank.load_bank(tmp_path, fingerprint)
    stored = protocol.evaluate(scorer, test, train, protocol.Choice(2), encodings=encodings)
    assert stored.metrics == result.metrics  # bit for bit: the same programs on the same batches

    whole = jax.jit(network.apply)
    by_key = {
        info.key: (source, row) for source in (train, test) for row, info in enumerate(source.infos)
    }

    def video(key):
        source, row = by_key[key]
        return preprocessing.evaluation_video(source[row].clip, settings)

    counts = []
    for dive in result.dives:
        query = video(dive.key)
        for i, key in enumerate(dive.exemplars):
            exemplar = video(key)
            frames = [preprocessing.normalize(one.frames)[None] for one in (query, exemplar)]
            out = jax.device_get(whole(variables, *frames))
            # Convolutions over 1 or 2 videos add up in another order: 1e-5 of the largest value.
            np.testing.assert_allclose(dive.deltas[i], out.delta[0, 0], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(dive.transitions[i], out.transitions[0])
            masks = np.stack([query.mask, exemplar.mask])
            scaled = preprocessing.scale_mask(masks)
            counts.append(metrics.mask_counts(out.mask_logits[-1], scaled, 6))
        np.testing.assert_allclose(np.sum(dive.stage_deltas, axis=1), dive.deltas, rtol=1e-5)
    assert np.ptp(np.concatenate([dive.deltas for dive in result.dives])) > 1e-3
    want = metrics.mask_metrics(metrics.add_counts(counts))
    assert 0 < want["mask_iou"] < 1
    assert {name: result.metrics[name] for name in want} == pytest.approx(want, abs=1e-3)
