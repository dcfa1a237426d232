import dataclasses

import numpy as np
import pytest
from PIL import Image

from finecausal_jax.data.preprocessing import DEVIATION, MEAN
from finecausal_jax.scoring import masks, metrics, report


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


def test_masks_to_look_at(scorer, train_source, tmp_path):
    shown = masks.show_masks(scorer, train_source, [4, 1])
    assert [one.key for one in shown] == [train_source.keys[4], train_source.keys[1]]
    for one, row in zip(shown, (4, 1), strict=True):
        level = train_source._levels[row]
        assert one.frames.shape == (8, 8, 8, 3) and (one.frames == level).all()
        np.testing.assert_allclose(one.logits, (level / 255 - MEAN[0]) / DEVIATION[0], rtol=1e-5)
        assert one.true.shape == one.logits.shape == (8, 8, 8)
        assert one.true.mean() == (1 + level % 5) / 8
    path = report.write_masks(shown, 0.5, tmp_path / "masks.png", data_name="rendered data")
    with Image.open(path) as picture:
        width, height = picture.size
    assert width > 1000 and height > 400
    assert [file.name for file in tmp_path.iterdir()] == ["masks.png"]


def test_of_overlapping_windows_the_earlier_one_is_shown(scorer, train_source):
    class Overlapping(type(scorer.model)):
        def encode(self, variables, videos):
            features = super().encode(variables, videos)
            windows = np.arange(2, dtype=np.float32)[None, :, None, None, None]
            logits = windows + 0 * features.mask_logits[-1]
            return features.replace(mask_logits=(logits,))

    model = Overlapping(window_stride=2)  # frames 0 to 3 and 2 to 5
    (shown,) = masks.show_masks(dataclasses.replace(scorer, model=model), train_source, [0])
    assert shown.logits[:, 0, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert len(shown.frames) == 6
