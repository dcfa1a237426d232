"""Edited test sets, by scorers of which it is known whether they look at the diver."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import finecausal_jax as fc
from finecausal_jax.data.clips import Clip
from finecausal_jax.data.dives import Dive
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.explain import backgrounds, swap, swap_report
from finecausal_jax.explain.backgrounds import CONTROL, EDITS, Scene
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring.intervals import Bootstrap
from finecausal_jax.scoring.protocol import Choice
from finecausal_jax.scoring.scorer import Scorer
from tests.scoring.conftest import FakeModel, encode, info

SIZE = 32
SIZES = Preprocessing(frames=8, frame_size=SIZE, resize_width=SIZE, resize_height=SIZE)
DIVER = (slice(14, 18), slice(14, 18))
CORNER = (slice(0, 6), slice(0, 6))


@dataclasses.dataclass(frozen=True)
class Looks(FakeModel):
    """Scores by the brightness of one place of the frame."""

    where: str = "diver"

    def encode(self, variables, videos):
        rows, columns = {"diver": DIVER, "background": CORNER}[self.where]
        level = jnp.mean(videos[:, :, rows, columns], axis=(2, 3, 4))
        feature = jnp.mean(level, axis=1)[:, None, None]
        bright = jnp.stack([videos[:, s : s + 4, ..., 0] for s in (0, 4)], axis=1)
        return fc.Features(feature, feature, level[..., None], (feature, bright))


class Dives:
    """A diver as bright as the dive is good, before a wall that is so too, or by chance."""

    def __init__(self, count, seed, masks=True, tied=True):
        rng = np.random.default_rng(seed)
        marks = rng.permutation(np.linspace(40, 90, count))
        self.walls = marks if tied else rng.permutation(marks)
        self.infos = tuple(
            info(f"{'ab'[seed]}{row % 4}", row, "107b", mark, 2.0) for row, mark in enumerate(marks)
        )
        self.keys = tuple(one.key for one in self.infos)
        self.fingerprint, self.masks = "", masks

    def __len__(self):
        return len(self.infos)

    def __getitem__(self, row):
        one = self.infos[row]
        frame = np.full((SIZE, SIZE, 3), round(self.walls[row]), np.uint8)
        frame[DIVER] = round(2 * one.completeness)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[DIVER] = 255
        count = len(one.frame_numbers)
        masks = (encode(mask),) * count if self.masks else None
        return Dive(one, Clip(one.key, one.frame_numbers, (encode(frame),) * count, masks))


def scores_of(where, rows=24, **options):
    # Points a step of the normalised brightness, so that every exemplar votes for the true mark.
    weight = 255 * 0.226 / {"diver": 2, "background": 1}[where]
    scorer = Scorer(Looks(where=where), {"weight": jnp.float32(weight)}, SIZES, progress=False)
    tied = where == "background"
    sides = {"test": Dives(24, 0, tied=tied), "train": Dives(8, 1, tied=tied)}
    choice, bootstrap = Choice(exemplars=2), Bootstrap(resamples=200)
    return swap.swap(scorer, sides, choice, bootstrap, rows=range(rows), **options)


@pytest.fixture(scope="module")
def by_diver():
    return {one.setting: one for one in scores_of("diver")}


@pytest.fixture(scope="module")
def by_background():
    return {one.setting: one for one in scores_of("background")}


def test_every_edit_is_scored_with_exemplars_edited_and_left(by_diver):
    edits = {(name, exemplars) for name in EDITS for exemplars in ("edited", "left")}
    assert set(by_diver) == edits | {(swap.ORIGINAL, "left")}
    assert by_diver[swap.ORIGINAL, "left"].shift == 0


def test_a_scorer_of_the_diver_is_not_moved_by_backgrounds_and_lost_without_the_diver(by_diver):
    for name in EDITS:
        for exemplars in ("edited", "left"):
            found = by_diver[name, exemplars]
            if "removed" in name:
                assert found.less_than_control.by_dives.low > 0.3
            else:
                assert found.execution.value > 0.99, name
                assert found.less_than_control.value == pytest.approx(0, abs=0.01)


def test_a_scorer_of_the_background_shows_it(by_background):
    for name in (CONTROL, "diver removed", "diver and splash removed", "diver frozen"):
        assert by_background[name, "left"].execution.value > 0.99
        assert by_background[name, "left"].less_than_control.value == pytest.approx(0, abs=0.01)
    anothers = by_background["diver and splash on another's background", "left"]
    assert anothers.less_than_control.by_dives.low > 0.3
    assert anothers.r_l2_more.by_dives.low > 0
    assert anothers.execution.value < 0.7
    stripes = by_background["diver alone on stripes", "left"]
    assert abs(stripes.execution.value) < 0.5  # what order is left is the exemplars'
    assert abs(stripes.shift) > 0.1


def test_predicted_masks_take_the_place_of_the_releases():
    found = {one.setting: one for one in scores_of("background", rows=3, masks="predicted")}
    assert set(found) >= {(name, "left") for name in EDITS}
    dives = Dives(4, 0, tied=True)
    best = int(np.argmax(dives.walls))  # whose diver alone is bright enough to be foreground
    scorer = Scorer(Looks(), {"weight": jnp.float32(1.0)}, SIZES, progress=False)
    scene, transitions = swap._scene(scorer, dives, best, "predicted")
    diver = np.zeros((8, SIZE, SIZE), bool)
    diver[:, *DIVER] = True
    np.testing.assert_array_equal(scene.diver, diver)
    assert scene.entry == transitions[1]


def test_a_dive_without_a_mask_is_named():
    sides = {"test": Dives(4, 0, masks=False), "train": Dives(4, 1)}
    scorer = Scorer(Looks(), {"weight": jnp.float32(1.0)}, SIZES, progress=False)
    with pytest.raises(InputError, match=r"dive \('a0', 0\) has no mask.*--masks=predicted"):
        swap.swap(scorer, sides, Choice(1), Bootstrap(resamples=100), rows=range(4))


def test_backgrounds_come_from_another_competition():
    infos = [info("a", 0, "107b", 50.0, 2.0), info("a", 1, "5253b", 50.0, 2.0)]
    others = [info("b", 0, "5253b", 50.0, 2.0), info("c", 0, "107b", 50.0, 2.0)]
    assert swap.partner([*infos, *others], 0) == 3  # of the same dive number
    assert swap.partner([*infos, others[0]], 0) == 2
    with pytest.raises(InputError, match="all 2 dives are of the competition a"):
        swap.partner(infos, 0)


def test_edits_change_what_they_say():
    rng = np.random.default_rng(0)
    frames = np.broadcast_to(rng.integers(0, 200, (1, 24, 24, 3), np.uint8), (9, 24, 24, 3)).copy()
    diver = np.zeros((9, 24, 24), bool)
    for row in range(9):
        diver[row, 8:12, 2 * row : 2 * row + 3] = True
    frames[diver] = 250
    frames[7, 20:22, 3:6] = 255
    own = Scene(frames, diver, 6)
    other = Scene(np.full_like(frames, 9), np.zeros_like(diver), 6)
    assert own.splash[7, 20:22, 3:6].all() and not own.splash[:6].any()
    back = backgrounds.put_back(own, other)
    np.testing.assert_array_equal(back[~own.tube | diver], frames[~own.tube | diver])
    gone = backgrounds.removed(own, other)
    assert (gone[diver & ~own.splash] < 200).all()  # filled from around, not from the diver
    np.testing.assert_array_equal(gone[7, 20:22, 3:6], 255)
    assert (backgrounds.removed_with_splash(own, other)[7, 20:22, 3:6] < 255).any()
    swapped = backgrounds.on_anothers(own, other)
    kept = diver | own.splash
    np.testing.assert_array_equal(swapped[kept], frames[kept])
    assert (swapped[~kept] == 9).all()
    still = backgrounds.frozen(own, other)
    assert (still[:, diver[4]] == 250).all()
    nobody = Scene(frames, np.zeros_like(diver), 6)
    np.testing.assert_array_equal(
        backgrounds.frozen(nobody, other), backgrounds.removed(nobody, other)
    )


def test_the_report_is_a_table_and_plain_json(tmp_path, by_background, capsys):
    found = list(by_background.values())
    swap_report.print_table(found, data_name="rendered data")
    assert "diver frozen" in capsys.readouterr().out
    path = swap_report.write_json(
        found, tmp_path / "a.json", data_name="rendered data", scored_by="x", masks="release"
    )
    read = json.loads(path.read_text())
    assert len(read["edits"]) == len(found) and len(read["dives"]) == 24
    assert read["edits"][0]["edit"] == swap.ORIGINAL
