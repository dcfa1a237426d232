"""Where a run's numbers go: a JSON-lines file and TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping


class MetricsLog:
    """Appends numbers by step to `metrics.jsonl` and to TensorBoard event files.

    On a resume, rows after the restored step are removed: the run will write them again.

    Args:
      workdir: the run's folder.
      step: the step the run stands at.
    """

    def __init__(self, workdir: str | pathlib.Path, step: int):
        # Not at the top: where PyTorch is installed, tensorboardX imports it.
        import tensorboardX

        folder = pathlib.Path(workdir)
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            rows = self._path.read_text().splitlines(keepends=True)
            kept = "".join(row for row in rows if row.endswith("\n") and _step(row) <= step)
            temporary = self._path.with_suffix(".partial")
            temporary.write_text(kept)
            os.replace(temporary, self._path)
        self._file = self._path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1, write_to_disk=True
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; JSON has no NaN, so a value that is not finite becomes null."""
        row = {k: v if abs(v) < float("inf") else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._board.close()


def _step(row: str) -> int:
    return json.loads(row)["step"]
