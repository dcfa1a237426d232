"""A cut-down network and synthetic files of every kind that a user may bring."""

import importlib.util
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from finecausal_jax.interop import conversion, export, names, pytorch
from finecausal_jax.interop.expected import Expected
from finecausal_jax.models.finecausal import FineCausal

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="session")
def seeded():
    """The recorded cases' own maker of weights and inputs."""
    spec = importlib.util.spec_from_file_location("seeded_of_tests", REFERENCE / "seeded.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Layers that stand for all others: each kind of name, layout and reason to drop is among them.
KEPT = re.compile(
    r"(base_model/backbone\.|segmenter/)(conv3d_1a_7x7|mixed_4f\.branch_(0|1\.1))\..*"
    r"|segmenter/(score_dsn1|upsample1|fuse)\..*"
    r"|video_encoder/backbone\.(conv1|bn1|layer1\.0\.conv1|layer2\.0\.downsample)\..*"
    r"|video_encoder/backbone\.(layer4\.2\.bn2|fc)\..*"
    r"|video_encoder/down23\.mpconv\.1\.conv\.[34]\..*"
    r"|psnet_model/(inc1\.conv\.conv\.[01]|tas\.layer2)\..*"
    r"|dim_reducer[123]/layer0\.weight"
    r"|regressor_delta[123]/layer1\..*"
    r"|decoder[1234]/model\.[01]\.(norm_q|mlp\.fc1)\..*|decoder1/model\.0\.attn\.proj\..*"
    r"|causal_intervention/.*"
    r"|temporal_causal_attn/encoder\.(norm|attn_layers\.0\.(conv1|attention\.k.*))\..*"
    r"|awl/params"
)


@pytest.fixture(scope="session")
def manifest():
    """(module, key) -> shape of every tensor of a released checkpoint, in its order."""
    content = json.loads((REFERENCE / "manifest.json").read_text())
    return {(m, key): tuple(shape) for m, rows in content.items() for key, shape, _ in rows}


@pytest.fixture(scope="session")
def small_tensors(manifest):
    """What a complete file holds, cut down to some 150 tensors with no axis above 8."""
    tensors = {}
    for (module, key), shape in manifest.items():
        if KEPT.fullmatch(f"{module}/{key}"):
            # ResNet's classifier keeps its 1000 rows, which the code knows.
            small = tuple(size if size == 1000 else min(size, 8) for size in shape)
            dtype = np.dtype(np.int64 if key.endswith("num_batches_tracked") else np.float32)
            tensors[module, key] = Expected(small, dtype, names.to_flax(module, key))
    return tensors


@pytest.fixture
def small_model(monkeypatch, small_tensors):
    """A network that is taken to consist of the tensors above: the real one traces for seconds."""
    for module in (conversion, export, pytorch):
        monkeypatch.setattr(module, "expected_tensors", lambda model=None: small_tensors)
    return FineCausal(embedding=32, frame_width=0.5)


@pytest.fixture(scope="session")
def small_state_once(small_tensors):
    rng = np.random.default_rng(5)
    state = {}
    for (module, key), want in small_tensors.items():
        if want.dtype == np.int64:
            value = np.array(rng.integers(1, 1000), np.int64)
        else:
            value = rng.uniform(0.1, 1.0, want.shape).astype(np.float32)
        state.setdefault(module, {})[key] = value
    return state


@pytest.fixture
def small_state(small_state_once):
    """A complete state that a test may change: dicts are copies, arrays are shared."""
    return {module: dict(tensors) for module, tensors in small_state_once.items()}


@pytest.fixture
def small_init(monkeypatch, small_tensors):
    """Replaces the network's initialisation by constants."""

    def constants(model, frame_size, key, wanted=None):
        tree = {}
        for want in small_tensors.values():
            if want.target is not None and (wanted is None or want.target.name in wanted):
                collection = tree.setdefault(want.target.collection, {})
                pytorch._put(
                    {want.target.collection: collection}, want.target, np.zeros(want.shape)
                )
        return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.25, np.float32), tree)

    monkeypatch.setattr(conversion, "init_variables", constants)
    return constants


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch, which is not installed")


@pytest.fixture
def write_pth(torch):
    """Writes a state as the reference saves `best.pth`."""

    def write(path, state, *, prefix="", optimizer=None, **more):
        blob = {
            module: {
                prefix + key: torch.from_numpy(np.array(value)) for key, value in tensors.items()
            }
            for module, tensors in state.items()
        }
        blob["optimizer"] = optimizer or {"state": {}, "param_groups": []}
        blob |= {"epoch": 7, "epoch_best_aqa": 6, "rho_best": np.float64(0.9447)}
        blob |= {"L2_min": np.float64(17.5), "RL2_min": np.float64(0.002338)} | more
        torch.save(blob, path)
        return path

    return write


@pytest.fixture
def kinetics(small_state):
    """State dict as in `model_rgb.pth`: the base trunk and a classifier."""
    prefix = "backbone."
    trunk = {key.removeprefix(prefix): value for key, value in small_state["base_model"].items()}
    classifier = {
        "conv3d_0c_1x1.conv3d.weight": np.ones((400, 8, 1, 1, 1), np.float32),
        "conv3d_0c_1x1.conv3d.bias": np.ones(400, np.float32),
    }
    return trunk | classifier


@pytest.fixture
def resnet(small_state):
    """torchvision's state dict of ResNet-34, classifier included."""
    prefix = "backbone."
    return {
        key.removeprefix(prefix): value
        for key, value in small_state["video_encoder"].items()
        if key.startswith(prefix)
    }


@pytest.fixture
def write_flat(torch):
    """Writes one network's state dict, in either format."""

    def write(path, tensors):
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file({key: np.array(value) for key, value in tensors.items()}, path)
        else:
            torch.save({key: torch.from_numpy(np.array(v)) for key, v in tensors.items()}, path)
        return path

    return write
