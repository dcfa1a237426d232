"""Weights to score with, straight from a file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.interop import conversion, export, weights
from finecausal_jax.interop.order import CAUSAL_MODULES
from finecausal_jax.interop.pytorch import WeightsError
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.scoring.scorer import Scorer
from finecausal_jax.settings import default_config, read, things


def write(folder, state, model, settings=None, **options):
    content = export.Export(
        step=40,
        state=state,
        adam=None,
        progress={name: 0 for name in export.PROGRESS},
        unknown=[],
        defaults=[],
        optimizer_groups=False,
    )
    folder.mkdir(exist_ok=True)
    export.write_safetensors(
        content,
        folder / "model.safetensors",
        model_arguments=conversion.model_to_json(model),
        besides={} if settings is None else things.described(settings),
        **options,
    )
    return folder


def test_bfloat16_is_half_as_large_and_rounded(tmp_path, small_state, small_model):
    whole = weights.load(write(tmp_path / "float32", small_state, small_model))
    half = weights.load(write(tmp_path / "bfloat16", small_state, small_model, dtype="bfloat16"))
    assert half.model == whole.model == small_model and half.step == 40
    for one, rounded in zip(
        jax.tree.leaves(whole.variables), jax.tree.leaves(half.variables), strict=True
    ):
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(rounded, one.astype(jnp.bfloat16).astype(np.float32))
    sizes = [
        (tmp_path / name / "model.safetensors").stat().st_size for name in ("float32", "bfloat16")
    ]
    assert sizes[1] < 0.7 * sizes[0]  # names and whole numbers take the rest
    # Exported again they are the same to the bit.
    again = export.of_weights(half)
    assert again.defaults == [] and again.step == 40
    export.write_safetensors(again, tmp_path / "again.safetensors", model_arguments={})
    back = weights.load(tmp_path / "again.safetensors", small_model)
    jax.tree.map(np.testing.assert_array_equal, back.variables, half.variables)


def test_changed_bytes_are_found(tmp_path, small_state, small_model):
    path = write(tmp_path / "a", small_state, small_model, dtype="bfloat16") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="it is damaged"):
        weights.load(path)


def test_a_file_a_folder_or_a_name(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "model.safetensors"
    path.touch()
    assert weights.find(path) == weights.find(tmp_path / "mine") == path
    monkeypatch.setattr(weights, "shipped", lambda: {"mine": tmp_path / "mine"})
    assert weights.find("mine") == path
    with pytest.raises(InputError, match=r"weights other: .* come with this package \(mine\), fo"):
        weights.find("other")
    (tmp_path / "mine" / "second.safetensors").touch()
    with pytest.raises(InputError, match="found a folder with 2 of them"):
        weights.find("mine")


def test_a_part_of_a_network_is_refused(tmp_path, small_state, small_model, write_pth):
    part = {name: state for name, state in small_state.items() if name not in CAUSAL_MODULES}
    with pytest.raises(WeightsError, match="it is no whole network: FineParser checkpoint, which"):
        weights.load(write_pth(tmp_path / "part.pth", part))


def test_a_scorer_of_a_file(tmp_path, small_state, small_model):
    config = default_config()
    config.data.frames, config.data.resize_height = 48, 130
    folder = write(tmp_path / "a", small_state, small_model, read(config), dtype="bfloat16")
    scorer = Scorer.load(folder, video_batch=2, progress=False)
    assert scorer.model == small_model and scorer.video_batch == 2
    assert scorer.preprocessing == things.make_preprocessing(read(config))
    wanted = weights.load(folder).variables
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(scorer.variables), wanted)

    content = json.loads((folder / "config.json").read_text())
    content["preprocessing"]["colour"] = True
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"config\.json: .*'colour'"):
        Scorer.load(folder)
    del content["preprocessing"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected the entry preprocessing"):
        Scorer.load(folder)


def test_weights_under_settings_of_another_network_are_refused(tmp_path, small_state, small_model):
    config = default_config()
    config.model.embedding = 32
    folder = write(tmp_path / "a", small_state, small_model, read(config))
    layout = make_layout()
    config.data.manual_dir, config.train.epochs = "elsewhere", 3
    trained = things.load_trained(read(config), "", "best", str(folder), layout)
    assert trained.step == 40 and trained.name == f"the weights {folder}"
    config.model.delta_scale = 8.0
    with pytest.raises(InputError, match=r"model\.delta_scale: was 1\.0, is 8\.0"):
        things.load_trained(read(config), "", "best", str(folder), layout)
