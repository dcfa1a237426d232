"""A folder of recorded reference cases: `cases/`, and `seeded.py`, which makes weights and inputs.

The folder's `seeded.py` is executed: it is Python code that whoever names the folder vouches for.
Seeds, numbers of pairs and labels come from each case, so any folder of this form will do.
"""

from __future__ import annotations

import importlib.util
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from finecausal_jax.interop.pytorch import from_pytorch
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.json_files import read_json

CASES = (
    "schedule",
    "preprocessing",
    "stage_pooling",
    "compare",
    "compare_train",
    "forward_pair",
    "forward_batch",
    "train_step",
)  # quick ones first


class Reference:
    """Reads one folder.

    Args:
      folder: holds `seeded.py`, `manifest.json` and `cases/`.

    Attributes:
      cases: names of the recorded cases, quick ones first.

    Raises:
      InputError: a file is missing, or the folder has a case that no check knows.
    """

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        lacking = [
            name
            for name in ("seeded.py", "manifest.json", "cases")
            if not (self.folder / name).exists()
        ]
        if lacking:
            raise InputError(
                f"{self.folder}: not a folder of reference cases, it has no {', '.join(lacking)}"
            )
        self._files = {
            path.stem: path
            for path in sorted((self.folder / "cases").iterdir())
            if path.suffix in (".npz", ".json")
        }
        unknown = sorted(self._files.keys() - set(CASES))
        if unknown or not self._files:
            raise InputError(
                f"{self.folder / 'cases'}: expected some of {', '.join(CASES)} (.npz or .json), "
                f"found {', '.join(unknown) or 'none'}"
            )
        self.cases = tuple(name for name in CASES if name in self._files)
        self._seeded: types.ModuleType | None = None
        self._variables: tuple[int, dict[str, Any]] | None = None

    def case(self, name: str) -> Mapping[str, Any]:
        """The content of a case: arrays by name, or the parsed JSON."""
        path = self._files[name]
        if path.suffix == ".json":
            return read_json(path, "a recorded case", "fetch the folder again")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # damaged archives make zipfile and NumPy raise nearly anything
            raise InputError(
                f"{path}: expected a recorded case, found a file that cannot be read "
                f"({type(error).__name__}: {error}); fetch the folder again"
            ) from error

    def variables(self, seed: int) -> dict[str, Any]:
        """Flax variables of the seeded checkpoint; those of the last seed asked for are kept."""
        if self._variables is None or self._variables[0] != seed:
            state = self.seeded.state(seed)
            self._variables = seed, from_pytorch(state, where=f"{self.folder}, seed {seed}")
        return self._variables[1]

    def clip(self, seed: int, name: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Videos [b, t, h, w, 3], normalised, and their masks [b, t, h, w] in {0, 1}; float32."""
        video, mask = self.seeded.clip(seed, name, batch)
        return np.moveaxis(video, 1, -1), mask[:, 0]

    def features(self, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """video_feature, mask_feature and frame_feature of 2b videos, float32."""
        return self.seeded.features(seed, batch)

    def probe(self, module: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """The random array, in PyTorch's layout, that a recorded product was taken with."""
        return self.seeded._uniform(f"probe/{module}/{key}", shape, -1, 1)

    @property
    def seeded(self) -> types.ModuleType:
        """The folder's own `seeded.py`, executed on first use."""
        if self._seeded is None:
            path = self.folder / "seeded.py"
            spec = importlib.util.spec_from_file_location("finecausal_reference_seeded", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._seeded = module
        return self._seeded
