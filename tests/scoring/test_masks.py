import numpy as np
import pytest

from finecausal_jax.data.preprocessing import DEVIATION, MEAN
from finecausal_jax.scoring import masks, metrics


def _by_hand(source, threshold):
    """IoU of the stand-in network, whose logit is a dive's level, as whole frames."""
    hit = union = 0
    for row in range(len(source)):
        found = (source._levels[row] / 255 - MEAN[0]) / DEVIATION[0] >= threshold
        true = 8 * (1 + source._levels[row] % 5)  # pixels of a frame
        hit += true * found
        union += 64 if found else true
    return hit / union


def test_masks_of_unseen_dives_at_both_thresholds(scorer, make_source, make_info):
    train, test = (
        make_source(
            [make_info("Cup", first + row, "101b", 20.0, 2.0) for row in range(len(levels))],
            levels=levels,
        )
        for first, levels in ((0, [34, 90, 129, 204, 254]), (9, [30, 134, 209, 240]))
    )
    found = masks.judge_masks(scorer, train, test)
    assert found["reference"]["threshold"] == 0.5
    assert found["reference"]["mask_iou"] == pytest.approx(_by_hand(test, 0.5))
    chosen = found["chosen"]["threshold"]
    on_training = {one: _by_hand(train, one) for one in masks.THRESHOLDS}
    assert chosen != 0.5 and on_training[chosen] == pytest.approx(max(on_training.values()))
    assert found["chosen"]["mask_iou"] == pytest.approx(_by_hand(test, chosen))
    # All training masks cover the five rows, all but one level; test masks 1, 5, 5 and 1.
    assert found["constant"]["mask_iou"] == pytest.approx((1 + 5 + 5 + 1) * 8 / (4 * 40))
    few = masks.judge_masks(scorer, train, test, most=1)
    assert few["reference"] == found["reference"]


def test_counts_of_one_mask_for_all_frames():
    true = np.zeros((5, 4, 4), bool)
    true[:3, 1:3, 1:3] = True
    found = np.zeros((4, 4), bool)
    found[1:3, 1:4] = True
    counts = masks._constant_counts(found, true.sum(0).astype(float), 5)
    hit = (true & found).sum()
    assert counts[:4] == (hit, (found & ~true).sum(), (true & ~found).sum(), (~true & ~found).sum())
    assert metrics.mask_metrics(counts)["mask_iou"] == pytest.approx(12 / 30)
