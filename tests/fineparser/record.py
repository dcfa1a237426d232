"""Records `golden.json`: what FineParser's model gives, by the PyTorch twin.

    python -m tests.fineparser.record

The twin (benchmarks/torch_baseline) is written from tests/reference/SPEC.md and checked against the
reference's own cases; FineParser is those parts without graph and temporal attention. Weights and
features are those of tests/reference/seeded.py, which a seed makes. The file says which PyTorch
made it. Record it again only where the model itself changes, and look at what changed.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import types
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).with_name("golden.json")
SEED, PAIRS = 5, 2
# Modules that FineParser's checkpoints have and a comparison of features uses.
MODULES = (
    "psnet_model",
    "decoder1",
    "decoder2",
    "decoder3",
    "decoder4",
    "regressor_delta1",
    "regressor_delta2",
    "video_encoder",
    "dim_reducer3",
    "dim_reducer1",
    "dim_reducer2",
)
# Of the forward pass; a probe's product stands for the larger ones.
TENSORS = ("delta", "stage_delta_static", "stage_delta_dynamic", "transitions")
PROBED = (
    "transition_probability",
    "stage_feature",
    "static_feature",
    "stage_embedding",
    "static_decoded",
    "dynamic_decoded",
)
LABELS = {
    "transitions": [[20, 60], [27, 65], [25, 66], [27, 63]],  # of queries, then exemplars
    "completeness": [20.0, 22.0, 23.5, 22.5],
    "difficulty": [3.0, 2.5, 3.5, 2.0],
    "loss_mask": 1.0,  # stands for the segmenter's, which is not run
}


def seeded() -> types.ModuleType:
    """tests/reference/seeded.py."""
    path = ROOT / "tests" / "reference" / "seeded.py"
    spec = importlib.util.spec_from_file_location("seeded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state(make: types.ModuleType) -> dict[str, dict[str, np.ndarray]]:
    """The seeded tensors of `MODULES` without ResNet-34, {module: {key: array}}."""
    manifest = json.loads(make.MANIFEST.read_text())
    return {
        module: {
            key: make._fill(f"{SEED}/{module}/{key}", shape, kind)
            for key, shape, kind in manifest[module]
            if not key.startswith("backbone.")
        }
        for module in MODULES
    }


def probed(make: types.ModuleType, name: str, values: np.ndarray) -> list[float]:
    """Norm of an array and its product with a seeded one, as the reference's cases have them."""
    values = np.asarray(values, np.float64)
    probe = make._uniform(f"probe/{name}", values.shape, -1, 1)
    return [float(np.linalg.norm(values)), float(np.vdot(values, probe))]


def record() -> dict[str, Any]:
    """Runs the twin in evaluation mode, then one training step's forward and backward pass."""
    import torch

    from benchmarks import torch_baseline
    from benchmarks.torch_baseline import losses

    torch.set_num_threads(1)
    make = seeded()
    model = torch_baseline.FineParser()
    for module, tensors in state(make).items():
        arrays = {key: torch.from_numpy(value) for key, value in tensors.items()}
        found = model.get_submodule(module).load_state_dict(arrays, strict=False)
        assert not found.unexpected_keys
        assert all(key.startswith("backbone.") for key in found.missing_keys)
    features = torch_baseline.Features(*map(torch.from_numpy, make.features(SEED, PAIRS)))

    with torch.no_grad():
        out = model.eval().compare(features)
    forward: dict[str, Any] = {name: getattr(out, name).tolist() for name in TENSORS}
    forward |= {name: probed(make, name, getattr(out, name).numpy()) for name in PROBED}

    inputs = [x.clone().requires_grad_() for x in features[:3]]
    transitions = torch.tensor(LABELS["transitions"])
    out = model.train().compare(torch_baseline.Features(*inputs), transitions=transitions)
    score = torch.tensor(LABELS["completeness"]) * torch.tensor(LABELS["difficulty"])
    aqa = losses.score_loss(out.delta, *score.chunk(2))
    tas = losses.transition_loss(out.transition_probability, transitions)
    loss = model.awl((aqa, tas, torch.tensor(LABELS["loss_mask"])))
    loss.backward()
    named = zip(("video_feature", "mask_feature", "frame_feature"), inputs, strict=True)
    gradients = {name: probed(make, name, x.grad.numpy()) for name, x in named}
    statistics = {}
    for module in MODULES:
        child = model.get_submodule(module)
        for key, parameter in child.named_parameters():
            if parameter.grad is not None:
                name = f"{module}/{key}"
                gradients[name] = probed(make, name, parameter.grad.numpy())
        for key, buffer in child.named_buffers():
            if "backbone." not in key and buffer.is_floating_point():
                statistics[f"{module}/{key}"] = probed(make, f"{module}/{key}", buffer.numpy())[1]
    return {
        "made_with": f"PyTorch {torch.__version__} on a CPU, float32, one thread",
        "seed": SEED,
        "pairs": PAIRS,
        "labels": LABELS,
        "forward": forward,
        "losses": {"loss": loss.item(), "loss_aqa": aqa.item(), "loss_tas": tas.item()},
        "gradients": gradients,
        "running_statistics_after": statistics,
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(record(), indent=1) + "\n")
