"""Rows of a run's metrics, whole and damaged."""

import json
import logging

import pytest

from finecausal_jax.runtime.metrics_log import MetricsLog, read_rows

WHOLE = ['{"step": 1, "train/loss": 2.5}', '{"step": 2, "train/loss": null}']


def write(path, *lines, end="\n"):
    path.write_bytes("\n".join(lines).encode() + end.encode())


def test_a_torn_last_line_is_cut_without_a_word(tmp_path, caplog):
    write(tmp_path / "metrics.jsonl", *WHOLE, '{"step": 3, "tra', end="")
    MetricsLog(tmp_path, 9).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == WHOLE
    assert not caplog.records
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


@pytest.mark.parametrize(
    "bad", ["\0" * 100, "[1]", '{"loss": 2}', '{"step": 2, "loss": "x"}', "[" * 100_000, "\xff"]
)
def test_lines_that_are_no_rows_are_left_out_and_kept_aside(tmp_path, caplog, bad):
    path = tmp_path / "metrics.jsonl"
    write(path, WHOLE[0], bad, WHOLE[1])
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        log = MetricsLog(tmp_path, 9)
    log.write(10, {"train/loss": float("nan")})
    log.close()
    rows = read_rows(path)
    assert [row["step"] for row in rows] == [1, 2, 10]
    assert rows[-1]["train/loss"] is None
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == before
    assert "left out 1 lines that are no rows of metrics, the first being line 2" in caplog.text


def test_rows_after_the_step_are_written_again(tmp_path):
    write(tmp_path / "metrics.jsonl", *WHOLE, '{"step": 3, "train/loss": 1.0}')
    log = MetricsLog(tmp_path, 2)
    log.write(3, {"train/loss": 0.5})
    log.keep()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 2.5), (2, None), (3, 0.5)]
    log.close()
