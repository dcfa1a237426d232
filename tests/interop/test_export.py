"""Back to files: the reference's `.pth` and safetensors, and round trips through checkpoints."""

import dataclasses
import json
import os
import shutil
import stat

import jax
import numpy as np
import pytest
from rich.console import Console
from synthetic_weights import assert_same, trained_adam

from finecausal_jax.interop import conversion, export, report, workdirs
from finecausal_jax.interop.checkpoint_files import read_weights
from finecausal_jax.interop.conversion import convert_file
from finecausal_jax.interop.order import CAUSAL_MODULES, OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import WeightsError, from_pytorch
from finecausal_jax.settings import things


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Where `workdir` keeps from test to test what it copies."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def workdir(tmp_path, converted, small_state, small_model, write_pth):
    """A converted checkpoint of the small network."""
    if not (converted / "run").exists():
        path = write_pth(converted / "source.pth", small_state, prefix="module.")
        conversion.save_converted(convert_file(path, model=small_model), converted / "run")
    return shutil.copytree(converted / "run", tmp_path / "run")


def test_pytorch_round_trip(tmp_path, workdir, small_state, small_model, torch):
    assert things.model_of(workdir, None) == small_model
    content = export.read_checkpoint(workdir, model=small_model)
    assert content.defaults == []
    export.write_pytorch(content, tmp_path / "out" / "best.pth", model=small_model)
    blob = torch.load(tmp_path / "out" / "best.pth")  # by its defaults: tensors and plain numbers
    assert_same({module: blob[module] for module in small_state}, small_state)
    assert blob["optimizer"] == {"state": {}, "param_groups": []}
    assert list(blob)[-1] == "segmenter"
    for name, value in (("epoch", 7), ("epoch_best_aqa", 6)):
        assert type(blob[name]) is int and blob[name] == value
    for name, value in (("rho_best", 0.9447), ("L2_min", 17.5), ("RL2_min", 0.002338)):
        assert type(blob[name]) is float and blob[name] == value
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["best.pth"]


def test_metrics_from_numpy_load_as_well(tmp_path, workdir, small_model, torch):
    content = export.read_checkpoint(workdir, model=small_model)
    content.progress = {"epoch": np.int64(3), "rho_best": np.float64(0.5), "RL2_min": 0.25}
    export.write_pytorch(content, tmp_path / "best.pth", model=small_model)
    blob = torch.load(tmp_path / "best.pth")
    assert [(type(blob[name]), blob[name]) for name in content.progress] == [
        (int, 3),
        (float, 0.5),
        (float, 0.25),
    ]


def test_safetensors_round_trip(tmp_path, workdir, small_state, small_model):
    path = tmp_path / "out" / "best.safetensors"
    content = export.read_checkpoint(workdir, model=small_model)
    arguments = conversion.model_to_json(small_model)
    export.write_safetensors(content, path, model_arguments=arguments)
    found = read_weights(path)
    assert_same(
        {m: {k: found.state[m][k] for k in small_state[m]} for m in small_state}, small_state
    )
    assert found.progress["rho_best"] == 0.9447
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["file"] == "best.safetensors"
    assert config["model"]["embedding"] == 32
    # The network's arguments come with the file: no config is needed to convert it.
    again = convert_file(path)
    assert again.model == small_model
    conversion.save_converted(again, tmp_path / "again")
    back = export.read_checkpoint(tmp_path / "again", model=small_model)
    assert_same(back.state, small_state)


def test_moments_round_trip(tmp_path, small_state, small_model, write_pth, torch):
    parameters, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS)
    saved = optimizer.state_dict()
    path = write_pth(tmp_path / "source.pth", small_state, optimizer=saved)
    conversion.save_converted(convert_file(path, model=small_model), tmp_path / "run")
    content = export.read_checkpoint(tmp_path / "run", model=small_model)
    export.write_pytorch(content, tmp_path / "back.pth", model=small_model)
    blob = torch.load(tmp_path / "back.pth")
    found = blob["optimizer"]
    assert found["state"].keys() == saved["state"].keys()
    for number, state in saved["state"].items():
        for name, value in state.items():
            assert torch.equal(found["state"][number][name], value), (number, name)
            assert found["state"][number][name].dtype == value.dtype
    assert found["param_groups"] == saved["param_groups"]
    optimizer.load_state_dict(found)  # PyTorch's own checks of groups and numbers
    assert parameters["awl"]["params"] in optimizer.state


def test_fineparser_round_trip(tmp_path, small_state, small_model, small_init, write_pth):
    for module in CAUSAL_MODULES:
        del small_state[module]
    path = write_pth(tmp_path / "source.pth", small_state)
    conversion.save_converted(convert_file(path, model=small_model), tmp_path / "run")
    content = export.read_checkpoint(tmp_path / "run", model=small_model, without_causal=True)
    assert_same(content.state, small_state)
    whole = export.read_checkpoint(tmp_path / "run", model=small_model)
    assert set(CAUSAL_MODULES) < set(whole.state)
    assert np.all(whole.state["awl"]["params"] == 0.25)
    for module, tensors in small_state.items():
        assert_same({module: whole.state[module]}, {module: tensors})


def test_a_run_that_began_here(tmp_path, small_state, small_model, small_tensors, torch):
    """A checkpoint of training has no unused tensors, and its moments lie in optax's state."""
    import optax

    variables = from_pytorch(small_state, model=small_model)
    chain = optax.MultiSteps(optax.chain(optax.identity(), optax.scale_by_adam()), 2)
    # All zeros, which are quicker from NumPy.
    shapes = jax.eval_shape(chain.init, variables["params"])
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    items = {
        "variables": variables,
        "optimiser": {"step": np.array(4, np.int32), "opt_state": state},
    }
    workdirs.save_new(tmp_path / "run", step=4, items=items, origin={})
    (tmp_path / "run" / "conversion.json").unlink()
    content = export.read_checkpoint(tmp_path / "run", which="4", model=small_model)
    unused = [f"{m}/{k}" for (m, k), want in small_tensors.items() if want.target is None]
    assert content.defaults == unused
    assert not content.state["regressor_delta3"]["layer1.weight"].any()
    assert content.state["video_encoder"]["backbone.fc.weight"].shape == (1000, 8)
    assert content.adam["count"] == 0
    assert content.progress["L2_min"] == 1000
    export.write_pytorch(content, tmp_path / "last.pth", model=small_model)
    blob = torch.load(tmp_path / "last.pth")
    assert len(blob["optimizer"]["param_groups"]) == 17
    leaves = [want.target.collection for want in small_tensors.values() if want.target]
    assert len(blob["optimizer"]["state"]) == leaves.count("params")


def write_run(folder, variables, rows):
    """A checkpoint of training at step 10, and its run's metrics."""
    items = {"variables": variables, "optimiser": {"step": np.array(10, np.int32)}}
    workdirs.save_new(folder, step=10, items=items, origin={})
    (folder / "conversion.json").unlink()
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 11, "test/spea')


def test_a_run_tells_its_epoch_and_best_metrics(tmp_path, small_state, small_model):
    """Four micro-batches an epoch: at step 10 two epochs are done, the last one is number 1."""
    rows = [
        {"step": 4, "train/loss": 3.0, "train/epoch": 1.0},
        {"step": 4, "test/spearman": 0.5, "test/r_l2_x100": 0.75},
        {"step": 8, "train/loss": 2.0, "train/epoch": 2.0},
        {"step": 8, "test/spearman": 0.25, "test/r_l2_x100": 0.5},
        {"step": 10, "train/loss": 2.0, "train/epoch": 2.5},
        {"step": 10, "test/spearman": None, "test/r_l2_x100": 4.0},
        # Behind the checkpoint.
        {"step": 12, "train/epoch": 3.0},
        {"step": 12, "test/spearman": 0.75, "test/r_l2_x100": 0.25},
    ]
    write_run(tmp_path / "run", from_pytorch(small_state, model=small_model), rows)
    content = export.read_checkpoint(tmp_path / "run", model=small_model)
    assert content.step == 10
    assert content.unknown == ["L2_min"]
    want = {"epoch": 1, "epoch_best_aqa": 0, "rho_best": 0.5, "L2_min": 1000, "RL2_min": 0.005}
    assert content.progress == want
    assert type(content.progress["epoch"]) is int


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        ([], {}),
        # Killed in the first epoch: the reference starts with the one after the noted one.
        ([{"step": 10, "train/epoch": 0.625}], {"epoch": -1}),
        # No row of training: how long an epoch is cannot be told.
        ([{"step": 10, "test/spearman": 0.5}], {"rho_best": 0.5}),
    ],
)
def test_only_what_a_run_knows_is_told(tmp_path, small_state, small_model, rows, known):
    write_run(tmp_path / "run", from_pytorch(small_state, model=small_model), rows)
    content = export.read_checkpoint(tmp_path / "run", model=small_model)
    start = {"epoch": 0, "epoch_best_aqa": 0, "rho_best": 0, "L2_min": 1000, "RL2_min": 1000}
    assert content.progress == start | known
    assert content.unknown == [name for name in start if name not in known]


def test_a_checkpoint_of_another_model_is_refused(workdir, small_tensors, monkeypatch):
    name = ("decoder1", "model.0.mlp.fc1.weight")
    other = dict(small_tensors)
    other[name] = dataclasses.replace(other[name], shape=(8, 4))
    del other["awl", "params"]
    monkeypatch.setattr(export, "expected_tensors", lambda model: other)
    with pytest.raises(WeightsError, match="checkpoint 0: 3 problems") as caught:
        export.read_checkpoint(workdir)
    line = "params/decoder1/layer_0/mlp/fc1/kernel: expected [4, 8], found [8, 8]"
    assert line in str(caught.value)
    assert "params/awl: not in this model" in str(caught.value)


def test_values_that_no_network_has_are_refused(workdir, small_model, monkeypatch):
    load = workdirs.load_items

    def spoilt(*arguments):
        items = load(*arguments)
        awl = items["variables"]["params"]["awl"]
        items["variables"]["params"]["awl"] = np.full_like(awl, np.nan)
        return items

    monkeypatch.setattr(workdirs, "load_items", spoilt)
    with pytest.raises(WeightsError, match="params/awl: 3 of 3 values are NaN or infinite"):
        export.read_checkpoint(workdir, model=small_model)


def test_every_changed_byte_of_an_export_is_found(tmp_path, write):
    path = tmp_path / "a.safetensors"
    write(path)
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    read_weights(path)
    for place in (begin, (begin + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(WeightsError, match="damaged, its bytes have changed: export it again"):
            read_weights(path)


def test_a_foreign_config_is_not_replaced(tmp_path, workdir, small_model):
    (tmp_path / "config.json").write_text("{}")
    content = export.read_checkpoint(workdir, model=small_model)
    with pytest.raises(ValueError, match="is not an export's and would be replaced"):
        export.write_safetensors(content, tmp_path / "a.safetensors", model_arguments={})
    assert not (tmp_path / "a.safetensors").exists()


@pytest.fixture
def write(workdir, small_model):
    """Exports the small network with some arguments as safetensors."""
    content = export.read_checkpoint(workdir, model=small_model)

    def run(path, **arguments):
        arguments = conversion.model_to_json(small_model) | arguments
        export.write_safetensors(content, path, model_arguments=arguments)

    return run


def test_a_config_belongs_to_one_file(tmp_path, write):
    """Settings such as `delta_scale` change no shape: mixed up, nothing else would notice."""
    first, second = (tmp_path / "out" / f"{name}.safetensors" for name in ("first", "second"))
    write(first, delta_scale=2.0)
    data = first.read_bytes()
    with pytest.raises(ValueError, match=r"config\.json belongs to first\.safetensors and would"):
        write(second)
    assert sorted(path.name for path in first.parent.iterdir()) == [
        "config.json",
        "first.safetensors",
    ]
    assert convert_file(first).model.delta_scale == 2.0
    write(first, delta_scale=3.0)  # its own may be replaced
    assert first.read_bytes() == data
    assert convert_file(first).model.delta_scale == 3.0

    # Moved beside it by hand, or renamed.
    first.rename(second)
    with pytest.raises(WeightsError, match=r"file: expected second\.safetensors, found first") as e:
        convert_file(second)
    assert str(e.value).startswith(str(tmp_path / "out" / "config.json"))


def test_other_settings_than_the_files_own_are_told(tmp_path, small_model, write, capsys):
    path = tmp_path / "best[bold].safetensors"  # rich would take it for its markup
    write(path, delta_scale=2.0)
    console = Console(width=120)
    report.print_conversion(convert_file(path), console)
    text = capsys.readouterr().out
    assert "best[bold].safetensors: FineCausal checkpoint" in text
    assert "config.json says" not in text
    report.print_conversion(convert_file(path, model=small_model), console)
    text = capsys.readouterr().out
    assert "model.delta_scale: 1.0 of --config is taken, config.json says 2.0\n" in text
    assert text.count("config.json says") == 1


def test_configs_from_before_they_named_a_file(tmp_path, write):
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    write(first, delta_scale=2.0)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["file"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert convert_file(first).model.delta_scale == 2.0
    with pytest.raises(ValueError, match=r"belongs to first\.safetensors and would be replaced"):
        write(second)
    write(first, delta_scale=3.0)
    assert json.loads((tmp_path / "config.json").read_text())["file"] == "first.safetensors"


@pytest.mark.parametrize("fails", ["weights", "config"])
def test_an_interrupted_export_changes_neither_file(tmp_path, write, monkeypatch, fails):
    folder = tmp_path / "out"
    write(folder / "a.safetensors", delta_scale=2.0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_, **__):
        raise OSError("no space left on device")

    if fails == "weights":
        monkeypatch.setattr("safetensors.numpy.save_file", fail)
    else:
        monkeypatch.setattr("pathlib.Path.write_text", fail)
    for name in ("a", "b"):
        target = folder if name == "a" else tmp_path / "new"
        with pytest.raises(OSError, match="no space"):
            write(target / f"{name}.safetensors", delta_scale=3.0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list((tmp_path / "new").iterdir()) == []


def test_a_workdir_gets_no_second_config(workdir, write):
    with pytest.raises(ValueError, match="is a workdir, whose config.json is the run's own"):
        write(workdir / "a.safetensors")
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "conversion.json"]


def test_written_files_have_the_mode_of_any_new_file(tmp_path, workdir, small_model, write):
    content = export.read_checkpoint(workdir, model=small_model)
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.safetensors")
        export.write_pytorch(content, tmp_path / "a.pth", model=small_model)
        assert os.umask(0o027) == 0o027  # unchanged
    finally:
        os.umask(before)
    for name in ("a.safetensors", "config.json", "a.pth"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640, name


def test_an_interrupted_write_leaves_nothing(tmp_path, workdir, small_model, monkeypatch, torch):
    content = export.read_checkpoint(workdir, model=small_model)

    def fail(blob, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        export.write_pytorch(content, tmp_path / "out" / "a.pth", model=small_model)
    assert list((tmp_path / "out").iterdir()) == []
