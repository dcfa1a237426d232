"""What the table, the JSON file and the plot say."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from finecausal_jax.runtime.console import make_console
from finecausal_jax.scoring import metrics, protocol, report


def dive(index, number, difficulty, completeness, predicted):
    deltas = np.array([predicted - 11.0, predicted - 9.0])  # both exemplars give `predicted`
    transitions = np.array([[20, 60], [30, 50]])
    true = np.array([20, 60])
    return protocol.DiveScore(
        key=("World[Cup]", index),
        dive_number=number,
        difficulty=difficulty,
        score=completeness * difficulty,
        exemplars=(("Cup", 1), ("Cup", 2)),
        exemplar_completeness=np.array([11.0, 9.0]),
        deltas=deltas,
        stage_deltas=deltas[:, None] * np.array([[0.3, 0.5, 0.2]]),
        transitions=transitions,
        true_transitions=true,
        tious=metrics.temporal_iou(transitions, true[None]),
        counts=metrics.MaskCounts(6, 2, 4, 88, 1.5, 3),
    )


@pytest.fixture
def evaluation():
    dives = (
        dive(7, "107b", 3.0, 20.0, 21.0),
        dive(8, "101b", 2.0, 16.0, 13.0),
        dive(9, "5253b", 3.5, 12.0, 14.0),
    )
    baselines = {
        "difficulty_only": {
            "spearman": 0.5,
            "r_l2_x100": 3.25,
            "execution_spearman": float("nan"),
        }
    }
    return protocol.Evaluation(dives, protocol.summarize(dives), baselines)


def test_table_holds_the_numbers(evaluation):
    console = Console(width=80)
    with console.capture() as capture:
        report.print_table(evaluation, data_name="rendered data", console=console)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "Scores (rendered data)" in lines[0]
    rows = [line.split() for line in lines]
    # Scores 60 32 42 for 63 26 49 keep their order; executions 20 16 12 for 21 13 14 do not.
    assert ["FineCausal", "1.0000", "0.5000", "3.9966"] in rows  # (9 + 36 + 49) / 3 / 28^2
    assert ["difficulty", "alone", "0.5000", "none", "3.2500"] in rows
    assert ["1.0000", "1.0000", "0.5000", "0.6667", "0.6250", "0.9400", "0.5000"] in rows
    # The largest error first; its stages are shares of the mean delta, 14 - 10.
    worst = [row for row in rows if row[-1:] == ["World[Cup]"]]
    assert worst[0] == "5253b 3.5 42.00 49.00 +1.20 +2.00 +0.80 9 of World[Cup]".split()
    assert [row[0] for row in worst] == ["5253b", "101b", "107b"]


def long_names(evaluation):
    """The same with larger errors, and competitions named as the rendered ones are."""
    dives = tuple(
        dataclasses.replace(
            one,
            key=("Rendered01_10m_Platform_Women", one.key[1] + 120),
            deltas=one.deltas * 100,
            stage_deltas=one.stage_deltas * 100,
        )
        for one in evaluation.dives
    )
    return dataclasses.replace(evaluation, dives=dives)


def test_nothing_is_cut_where_output_is_no_terminal(evaluation):
    file = io.StringIO()
    report.print_table(
        long_names(evaluation), data_name="rendered data", console=make_console(file)
    )
    rows = [line.split() for line in file.getvalue().splitlines()]
    worst = "5253b 3.5 42.00 1435.00 +120.00 +200.00 +80.00 129 of Rendered01_10m_Platform_Women"
    assert worst.split() in rows


def test_a_narrow_terminal_folds_names_before_numbers(evaluation):
    file = io.StringIO()
    console = Console(file=file, width=70, force_terminal=True, color_system=None)
    report.print_table(long_names(evaluation), data_name="rendered data", console=console)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 70
    (first,) = (i for i, line in enumerate(lines) if line.split()[:1] == ["5253b"])
    numbers = "5253b 3.5 42.00 1435.00 +120.00 +200.00 +80.00".split()
    assert lines[first].split()[:7] == numbers
    place = lines[first].find("129")
    (last,) = (i for i, line in enumerate(lines) if line.split()[:1] == ["101b"])  # the next row
    cells = [line[place:].strip() for line in lines[first:last]]
    assert "".join(cells) == "129 ofRendered01_10m_Platform_Women"


def test_json_holds_every_dive(evaluation, tmp_path):
    path = report.write_json(
        evaluation, tmp_path / "new" / "result.json", data_name="synthetic data"
    )
    read = json.loads(path.read_text())
    assert read["data"] == "synthetic data"
    assert read["metrics"]["dives"] == 3
    assert read["metrics"]["mask_recall"] == 0.5
    assert read["baselines"]["difficulty_only"]["execution_spearman"] is None
    first = read["dives"][0]
    assert (first["competition"], first["index"], first["dive_number"]) == ("World[Cup]", 7, "107b")
    assert first["predicted_score"] == pytest.approx(63.0)
    assert first["stage_deltas"] == pytest.approx({"forward": 3.3, "twist": 5.5, "entry": 2.2})
    assert first["transitions"] == [20, 60]
    assert first["tiou"] == pytest.approx(0.75)
    assert first["exemplars"][1] == {
        "competition": "Cup",
        "index": 2,
        "completeness": 9.0,
        "delta": 12.0,
        "predicted_transitions": [30, 50],
    }


def test_a_failed_write_leaves_the_old_file(evaluation, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    report.write_json(evaluation, path, data_name="first")

    def fail(*unused, **unused_too):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_json(evaluation, path, data_name="second")
    assert json.loads(path.read_bytes())["data"] == "first"
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_scatter_is_a_picture(evaluation, tmp_path):
    path = report.write_scatter(evaluation, tmp_path / "scatter.png", data_name="rendered data")
    with Image.open(path) as image:
        assert image.size == (1500, 780)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == 255).all(axis=1).mean() > 0.5  # mostly white
    assert (pixels == [253, 231, 37]).all(axis=1).any()  # the colour bar's brightest end


def test_one_dive_without_an_order_still_gives_a_report(evaluation, tmp_path):
    one = evaluation.dives[:1]
    single = protocol.Evaluation(one, protocol.summarize(one), {})
    assert np.isnan(single.metrics["spearman"])
    report.write_scatter(single, tmp_path / "one.png", data_name="rendered data")
    read = json.loads(report.write_json(single, tmp_path / "one.json", data_name="x").read_text())
    assert read["metrics"]["spearman"] is None
    assert read["metrics"]["loss_aqa"] == pytest.approx(1.0)
