"""Reading files: what is recognised, what is refused, and that nothing in them runs."""

import os
import pickle

import numpy as np
import pytest

from finecausal_jax.interop import checkpoint_files
from finecausal_jax.interop.checkpoint_files import read_weights
from finecausal_jax.interop.pytorch import WeightsError
from finecausal_jax.runtime.errors import InputError


class Hostile:
    """Creates a marker file when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_finecausal_and_fineparser_are_told_apart(tmp_path, small_state, write_pth):
    whole = read_weights(write_pth(tmp_path / "a.pth", small_state, prefix="module."))
    assert whole.kind == checkpoint_files.FINECAUSAL
    assert whole.progress == {
        "epoch": 7,
        "epoch_best_aqa": 6,
        "rho_best": 0.9447,
        "L2_min": 17.5,
        "RL2_min": 0.002338,
    }
    for module in ("causal_intervention", "temporal_causal_attn", "awl"):
        del small_state[module]
    part = read_weights(write_pth(tmp_path / "b.pth", small_state))
    assert part.kind == checkpoint_files.FINEPARSER
    assert part.problems == []


def test_numpy_1_scalars_are_allowed_too(tmp_path, small_state, write_pth):
    # NumPy 1 wrote the same function under another module's name.
    path = write_pth(tmp_path / "a.pth", {"awl": small_state["awl"]})
    data = path.read_bytes()
    assert b"numpy._core.multiarray" in data
    import zipfile

    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("data.pkl"):
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            new.writestr(item, content)
    assert read_weights(tmp_path / "b.pth").progress["rho_best"] == 0.9447


@pytest.mark.parametrize("place", ["file", "inside", "legacy"])
def test_a_hostile_pickle_does_not_run(tmp_path, small_state, write_pth, torch, place):
    path, marker = tmp_path / "hostile.pth", tmp_path / "it_ran"
    hostile = Hostile(marker)
    if place == "file":
        path.write_bytes(pickle.dumps(hostile))
    elif place == "inside":
        write_pth(path, small_state, epoch=hostile)
    else:
        torch.save({"base_model": hostile}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"hostile\.pth: 1 problem") as caught:
        read_weights(path)
    assert not marker.exists()
    if place == "inside":
        assert "asks for posix.system" in str(caught.value)
        assert "nothing of it was run" in str(caught.value)


def test_the_hostile_pickle_would_run_elsewhere(tmp_path):
    # What the test above relies on.
    pickle.loads(pickle.dumps(Hostile(tmp_path / "it_ran")))
    assert (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files_are_refused(tmp_path, small_state, write_pth, keep, suffix):
    from safetensors.numpy import save_file

    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        write_pth(path, {"awl": small_state["awl"]})
    else:
        save_file({"awl/params": small_state["awl"]["params"]}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError, match=rf"cut{suffix}: .*\n  cannot be read .* truncated"):
        read_weights(path)


def test_other_files_are_refused(tmp_path, torch):
    path = tmp_path / "notes.pth"
    path.write_text("not a checkpoint\n" * 100)
    with pytest.raises(WeightsError, match="cannot be read as a PyTorch file"):
        read_weights(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(WeightsError, match="expected a dict of tensors, found a list"):
        read_weights(path)
    torch.save({"encoder.weight": torch.zeros(2), "encoder.bias": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="found 2 keys: encoder.bias, encoder.weight"):
        read_weights(path)
    with pytest.raises(WeightsError, match=r"gone\.pth: 1 problem\n  there is no such file"):
        read_weights(tmp_path / "gone.pth")


def test_foreign_entries_are_listed(tmp_path, small_state, write_pth, torch):
    small_state["decoder5"] = {"weight": np.zeros(2, np.float32)}
    path = write_pth(tmp_path / "a.pth", small_state, note="hello", rho_best=[1.0])
    blob = torch.load(path, weights_only=False)
    blob["awl"]["name"] = "awl"
    torch.save(blob, path)
    assert sorted(read_weights(path).problems) == [
        "awl/name: expected a tensor, found a str",
        "decoder5: unknown module of 1 tensors",
        "note: unknown entry, a str",
        "rho_best: expected a number, found a list",
    ]


def test_tensors_without_a_numpy_type_are_named(tmp_path, torch):
    path = tmp_path / "a.pth"
    torch.save({"awl": {"params": torch.ones(3, dtype=torch.bfloat16)}}, path)
    with pytest.raises(WeightsError, match=r"awl/params: torch.bfloat16 .* expected float32"):
        read_weights(path)


def test_pretrained_networks_are_recognised(tmp_path, torch):
    path = tmp_path / "model_rgb.pth"
    unit = {
        "conv3d_1a_7x7.conv3d.weight": torch.ones(2),
        "conv3d_0c_1x1.conv3d.bias": torch.ones(1),
    }
    torch.save(unit, path)
    found = read_weights(path)
    assert found.kind == checkpoint_files.KINETICS
    assert sorted(found.state) == ["base_model", "segmenter"]
    assert "backbone.conv3d_1a_7x7.conv3d.weight" in found.state["base_model"]
    assert "conv3d_0c_1x1.conv3d.bias" in found.state["segmenter"]

    resnet = {"conv1.weight": 1, "bn1.weight": 1, "layer1.0.conv1.weight": 1, "fc.bias": 1}
    torch.save({f"module.{key}": torch.ones(2) for key in resnet}, path)
    found = read_weights(path)
    assert found.kind == checkpoint_files.RESNET
    assert sorted(found.state["video_encoder"]) == sorted(f"backbone.{key}" for key in resnet)


def test_a_foreign_config_beside_safetensors_is_left_alone(tmp_path, small_state):
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file({"awl/params": small_state["awl"]["params"]}, path)
    (tmp_path / "config.json").write_text('{"model": {"width": 3}}')
    assert read_weights(path).config == {}
    (tmp_path / "config.json").write_text('{"format": "finecausal-jax", "model": [], "file": 3}')
    with pytest.raises(WeightsError, match=r"config\.json: 2 problems") as caught:
        read_weights(path)
    assert "model: expected a dict, found a list" in str(caught.value)
    assert "file: expected a str, found a int" in str(caught.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: expected what an export wrote.*no JSON"):
        read_weights(path)
