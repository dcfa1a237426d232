"""From a file to a checkpoint: whole or not at all, with a table of what became of each tensor."""

import json

import jax
import numpy as np
import pytest
from rich.console import Console
from synthetic_weights import assert_same

from finecausal_jax.interop import checkpoint_files, conversion, report, workdirs
from finecausal_jax.interop.conversion import convert_file, load_trunks, merged
from finecausal_jax.interop.expected import flat_leaves
from finecausal_jax.interop.order import CAUSAL_MODULES
from finecausal_jax.interop.pytorch import WeightsError, from_pytorch, rename_to_pytorch
from finecausal_jax.runtime.errors import InputError


def table_of(converted):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print_conversion(converted, console)
    console.file.close()
    return console.export_text()


def test_a_whole_file_fills_every_leaf(tmp_path, small_state, small_model, write_pth):
    path = write_pth(tmp_path / "best.pth", small_state, prefix="module.")
    converted = convert_file(path, model=small_model)
    assert converted.fresh == []
    want = from_pytorch(small_state, model=small_model)
    for collection in want:
        found = dict(flat_leaves(converted.variables[collection]))
        for leaf, value in flat_leaves(want[collection]):
            assert np.array_equal(found[leaf], value)
    text = table_of(converted)
    assert "FineCausal checkpoint" in text
    assert f"{len(converted.conversion.sources):,}" in text
    assert "dropped 2: regressor_delta3 is never called" in text
    assert "fresh" not in text.split("dropped 2: regressor_delta3")[1]


def test_the_saved_checkpoint_holds_it_all(tmp_path, small_state, small_model, write_pth):
    path = write_pth(tmp_path / "best.pth", small_state)
    converted = convert_file(path, model=small_model)
    folder = conversion.save_converted(converted, tmp_path / "runs" / "a")
    assert folder == tmp_path / "runs" / "a" / "checkpoints" / "0"
    names = ("variables", "optimiser", "adam", "unused")
    items = workdirs.load_items(tmp_path / "runs" / "a", 0, names)
    assert sorted(items) == ["unused", "variables"]
    state = rename_to_pytorch(items["variables"])
    for module, tensors in conversion.flattened(items["unused"]).items():
        state.setdefault(module, {}).update(tensors)
    assert_same({m: {k: state[m][k] for k in small_state[m]} for m in small_state}, small_state)
    origin = json.loads((tmp_path / "runs" / "a" / "conversion.json").read_text())
    assert origin["source"] == "best.pth"
    assert origin["progress"]["rho_best"] == 0.9447
    assert origin["model"]["embedding"] == 32
    # Nothing else is left behind.
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a"]
    assert sorted(path.name for path in (tmp_path / "runs" / "a").iterdir()) == [
        "checkpoints",
        "conversion.json",
    ]


def test_a_workdir_with_checkpoints_is_refused(tmp_path, small_state, small_model, write_pth):
    path = write_pth(tmp_path / "best.pth", small_state)
    converted = convert_file(path, model=small_model)
    (tmp_path / "run" / "checkpoints" / "500").mkdir(parents=True)
    with pytest.raises(ValueError, match="already holds checkpoints; choose a new --workdir"):
        conversion.save_converted(converted, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "run"]


def test_a_config_in_the_workdir_stays(tmp_path, small_state, small_model, write_pth):
    path = write_pth(tmp_path / "best.pth", small_state)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    conversion.save_converted(convert_file(path, model=small_model), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == "{}"
    assert (tmp_path / "run" / "checkpoints" / "0").is_dir()


def test_a_failing_save_leaves_nothing(tmp_path, small_state, small_model, write_pth, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    path = write_pth(tmp_path / "best.pth", small_state)
    converted = convert_file(path, model=small_model)

    def fail(path, items):
        path.mkdir(parents=True)
        raise OSError("no space left on device")

    monkeypatch.setattr(ocp, "save_checkpointables", fail)
    with pytest.raises(OSError, match="no space"):
        conversion.save_converted(converted, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_checkpoints_may_be_a_link_to_another_disk(tmp_path, small_state, small_model, write_pth):
    path = write_pth(tmp_path / "best.pth", small_state)
    (tmp_path / "disk" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk" / "checkpoints")
    saved = conversion.save_converted(convert_file(path, model=small_model), tmp_path / "run")
    assert saved == tmp_path / "run" / "checkpoints" / "0"
    assert (tmp_path / "run" / "checkpoints").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["checkpoints"]
    with pytest.raises(InputError, match="already holds checkpoints"):
        conversion.save_converted(convert_file(path, model=small_model), tmp_path / "run")


def test_fineparser_fills_what_it_has(tmp_path, small_state, small_model, small_init, write_pth):
    for module in CAUSAL_MODULES:
        del small_state[module]
    converted = convert_file(write_pth(tmp_path / "best.pth", small_state), model=small_model)
    assert converted.source.kind == checkpoint_files.FINEPARSER
    fresh = {leaf.split("/")[1] for leaf in converted.fresh}
    assert fresh == set(CAUSAL_MODULES)
    assert np.all(converted.variables["params"]["awl"] == 0.25)
    layer = converted.variables["params"]["decoder2"]["layer_1"]["mlp"]["fc1"]["kernel"]
    assert np.array_equal(layer, small_state["decoder2"]["model.1.mlp.fc1.weight"].T)
    text = table_of(converted)
    assert "fresh, not in the file: causal_intervention, temporal_causal_attn, awl" in text


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_kinetics_fills_both_trunks(
    tmp_path, small_state, small_model, small_init, kinetics, write_flat, suffix
):
    path = write_flat(tmp_path / f"model_rgb{suffix}", kinetics)
    converted = convert_file(path, model=small_model)
    params = converted.variables["params"]
    conv = "mixed_4f.branch_1.1.conv3d.weight"
    for trunk in (params["base_model"], params["segmenter"]["trunk"]):
        kernel = trunk["mixed_4f"]["branch_1_1"]["conv3d"]["kernel"]
        assert np.array_equal(kernel, kinetics[conv].transpose(2, 3, 4, 1, 0))
    assert np.all(params["segmenter"]["fuse"]["kernel"] == 0.25)
    assert np.all(params["awl"] == 0.25)
    text = table_of(converted)
    assert "dropped 4: Kinetics classifier: the trunk ends before it" in text
    assert "fresh in part, not in the file: segmenter" in text


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_resnet_fills_the_static_encoder(
    tmp_path, small_model, small_init, resnet, write_flat, suffix
):
    path = write_flat(tmp_path / f"resnet34{suffix}", resnet)
    converted = convert_file(path, model=small_model)
    encoder = converted.variables["params"]["video_encoder"]
    norm = encoder["backbone"]["layer2_0"]["downsample_norm"]["scale"]
    assert np.array_equal(norm, resnet["layer2.0.downsample.1.weight"])
    assert np.all(encoder["down23"]["conv2"]["kernel"] == 0.25)
    assert set(converted.unused) == {"video_encoder"}
    assert np.array_equal(converted.unused["video_encoder"]["backbone.fc.bias"], resnet["fc.bias"])


def test_trunks_go_into_initial_variables(
    tmp_path, small_state, small_model, small_init, kinetics, resnet, write_flat
):
    initial = small_init(small_model, 16, jax.random.key(0))
    mixed = write_flat(tmp_path / "model_rgb.pth", kinetics)
    flat = write_flat(tmp_path / "resnet34.safetensors", resnet)
    result = merged(initial, load_trunks(kinetics=mixed, resnet=flat, model=small_model))
    want = from_pytorch(small_state, model=small_model)
    for collection, tree in want.items():
        found, before = (
            dict(flat_leaves(result[collection])),
            dict(flat_leaves(initial[collection])),
        )
        assert found.keys() == before.keys()
        for leaf, value in flat_leaves(tree):
            trunk = leaf[0] == "base_model" or leaf[:2] == ("video_encoder", "backbone")
            if trunk:
                assert np.array_equal(found[leaf], value)
            elif leaf[:2] != ("segmenter", "trunk"):
                assert np.array_equal(found[leaf], before[leaf])
    trunks = result["params"]["base_model"], result["params"]["segmenter"]["trunk"]
    first, second = (dict(flat_leaves(tree)) for tree in trunks)
    assert all(np.array_equal(first[leaf], second[leaf]) for leaf in first)
    assert load_trunks(kinetics="", resnet=None, model=small_model) == {}


def test_a_trunk_of_the_wrong_kind_is_refused(
    tmp_path, small_model, small_state, kinetics, resnet, write_flat, write_pth
):
    path = write_flat(tmp_path / "resnet34.pth", resnet)
    with pytest.raises(WeightsError, match="expected Kinetics I3D, found ImageNet ResNet-34"):
        load_trunks(kinetics=path, model=small_model)
    whole = write_pth(tmp_path / "best.pth", small_state)
    with pytest.raises(WeightsError, match="found FineCausal checkpoint"):
        load_trunks(resnet=whole, model=small_model)
    del kinetics["mixed_4f.branch_0.conv3d.weight"]
    kinetics["conv3d_1a_7x7.conv3d.weight"] = kinetics["conv3d_1a_7x7.conv3d.weight"][:1]
    path = write_flat(tmp_path / "model_rgb.pth", kinetics)
    with pytest.raises(WeightsError, match="model_rgb.pth: 4 problems") as caught:
        load_trunks(kinetics=path, model=small_model)
    assert "base_model/backbone.mixed_4f.branch_0.conv3d.weight: missing" in str(caught.value)
    assert "segmenter/conv3d_1a_7x7.conv3d.weight: shape: expected" in str(caught.value)


def test_old_trunks_have_no_counts(tmp_path, small_model, kinetics, write_flat):
    # PyTorch saves them since version 0.4.1; model_rgb.pth is older.
    old = {key: value for key, value in kinetics.items() if "num_batches" not in key}
    part = load_trunks(kinetics=write_flat(tmp_path / "model_rgb.pth", old), model=small_model)
    assert sorted(part["params"]) == ["base_model", "segmenter"]
    assert sorted(part["params"]["segmenter"]) == ["trunk"]


def _set_first(tensors, ending, value):
    name = next(name for name in tensors if name.endswith(ending))
    tensors[name] = np.array(tensors[name])
    tensors[name][0] = value


@pytest.mark.parametrize("wrapped", ["_orig_mod.", "module._orig_mod.", "module.module."])
def test_names_that_wrappers_put_in_are_known(
    tmp_path, small_state, small_model, write_pth, wrapped
):
    plain = convert_file(write_pth(tmp_path / "a.pth", small_state), model=small_model)
    path = write_pth(tmp_path / "b.pth", small_state, prefix=wrapped)
    found = convert_file(path, model=small_model)
    jax.tree.map(np.testing.assert_array_equal, found.variables, plain.variables)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s["decoder1"].pop("model.0.norm_q.bias"),
            "decoder1/model.0.norm_q.bias: missing",
        ),
        (lambda s: s.pop("decoder3"), "decoder3/model.1.norm_q.bias: missing"),
        (lambda s: s.pop("awl"), "awl/params: missing"),
        (lambda s: s["awl"].update(params=np.ones(4, np.float32)), r"expected \[3\], found \[4\]"),
        (lambda s: s["awl"].update(params=np.full(3, np.nan, np.float32)), "3 of 3 values are NaN"),
        (lambda s: s["awl"].update(params=np.ones(3)), "expected float32, found float64"),
        (lambda s: s["awl"].update(extra=np.ones(3)), "awl/extra: unknown tensor"),
        (lambda s: _set_first(s["base_model"], "running_var", -1), "1 of . variances are negative"),
        (
            lambda s: s.update(decoder1={f"net.{k}": v for k, v in s["decoder1"].items()}),
            r"1 problem\n  decoder1: all its \d+ keys begin with 'net.': save them without it",
        ),
    ],
)
def test_bad_files_write_nothing(tmp_path, small_state, small_model, write_pth, spoil, message):
    spoil(small_state)
    path = write_pth(tmp_path / "best.pth", small_state)
    with pytest.raises(WeightsError, match=message) as caught:
        convert_file(path, model=small_model)
    assert str(caught.value).startswith(f"{path}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_bad_moments_are_an_error_unless_dropped(
    tmp_path, small_state, small_model, write_pth, torch
):
    optimizer = {
        "state": {
            0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
        },
        "param_groups": [{"params": [0, 1], "lr": 1e-3}],
    }
    path = write_pth(tmp_path / "best.pth", small_state, optimizer=optimizer)
    with pytest.raises(
        WeightsError, match="numbers 2 parameters, but the file's modules have"
    ) as caught:
        convert_file(path, model=small_model)
    assert "--drop_optimizer" in str(caught.value)
    assert convert_file(path, model=small_model, drop_optimizer=True).adam is None
