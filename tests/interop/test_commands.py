"""convert, export and verify as the command line calls them."""

import types

import numpy as np
import pytest
from synthetic_weights import trained_adam

from finecausal_jax.commands import convert, verify
from finecausal_jax.commands import export as export_command
from finecausal_jax.interop.order import OPTIMIZER_GROUPS
from finecausal_jax.settings import read, things


def options(**given):
    defaults = {
        "workdir": None,
        "config": None,
        "source": None,
        "drop_optimizer": False,
        "format": "pytorch",
        "output": None,
        "checkpoint": None,
        "weights": "",
        "dtype": "float32",
        "fineparser": False,
        "reference": None,
        "cases": [],
        "only_misses": False,
        "against": None,
    }
    return types.SimpleNamespace(**(defaults | given))


def test_convert_export_verify(tmp_path, small_state, small_model, write_pth, monkeypatch, capsys):
    source = str(write_pth(tmp_path / "best.pth", small_state))
    workdir = str(tmp_path / "run")
    assert convert.run(options(source=source, workdir=workdir)) == 0
    text = capsys.readouterr().out
    assert "best.pth: FineCausal checkpoint" in text
    assert f"wrote {workdir}/checkpoints/0" in text

    for name, kind in (("back.pth", "pytorch"), ("back.safetensors", "safetensors")):
        output = str(tmp_path / name)
        flags = options(workdir=workdir, format=kind, output=output, checkpoint="best")
        assert export_command.run(flags) == 0
        assert verify.run(options(checkpoint=output, against=source)) == 0
        text = capsys.readouterr().out
        assert f"wrote {output}: checkpoint of step 0" in text
        assert "progress: epoch 7, epoch_best_aqa 6, rho_best 0.9447, L2_min 17.5, RL2_m" in text
        assert "not known" not in text
        assert (
            f"{sum(map(len, small_state.values()))} tensors are equal bit for bit, 0 differ" in text
        )

    # The copy of another network differs in what was changed, and says so.
    small_state["awl"]["params"] = small_state["awl"]["params"] + np.float32(0.5)
    del small_state["decoder1"]["model.0.norm_q.bias"]
    other = str(write_pth(tmp_path / "other.pth", small_state))
    assert verify.run(options(checkpoint=workdir, against=other)) == 1
    text = capsys.readouterr().out
    assert f"{workdir}, checkpoint of step 0, against {other}, FineCausal checkpoint" in text
    assert "abs  5.00e-01" in text
    assert f"only in {workdir}: decoder1/model.0.norm_q.bias" in text


def test_convert_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="convert needs --workdir=DIR"):
        convert.run(options(source="best.pth"))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(ValueError, match="already holds checkpoints"):
        convert.run(options(source="best.pth", workdir=str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("pytorch", "best.safetensors", "with --format=pytorch: a name ends in .safetensors if"),
        ("safetensors", "best.pth", "with --format=safetensors: a name ends in .safetensors if"),
        ("pytorch", "", "is a folder: expected the name of a file"),
        ("safetensors", "run/a.safetensors", "is a workdir, whose config.json is the run's own"),
    ],
)
def test_an_export_says_what_it_cannot_write_before_it_reads(tmp_path, kind, name, problem):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    flags = options(workdir=str(tmp_path / "run"), format=kind, output=str(tmp_path / name))
    with pytest.raises(ValueError, match=problem):
        export_command.run(flags)


def test_an_export_tells_what_it_does_not_know(
    tmp_path, small_state, small_model, write_pth, torch, capsys
):
    _, adam = trained_adam(torch, small_state, OPTIMIZER_GROUPS, steps=1)
    path = write_pth(tmp_path / "best.pth", small_state, optimizer=adam.state_dict())
    blob = torch.load(path, weights_only=False)
    del blob["epoch"], blob["L2_min"]
    torch.save(blob, path)
    workdir, output = str(tmp_path / "run"), str(tmp_path / "back.pth")
    assert convert.run(options(source=str(path), workdir=workdir)) == 0
    assert export_command.run(options(workdir=workdir, output=output, checkpoint="best")) == 0
    text = capsys.readouterr().out
    assert "progress: epoch_best_aqa 6, rho_best 0.9447, RL2_min 0.002338\n" in text
    assert "not known, left at what the reference starts with: epoch 0, L2_min 1000\n" in text
    assert "a PyTorch run resumed from it would begin its schedule at the first epoch" in text


@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        (
            lambda blob, torch: blob["decoder1"].update(
                {"model.0.query": blob["decoder1"].pop("model.0.norm_q.weight")}
            ),
            (
                "decoder1/model.0.query: unknown tensor",
                "decoder1/model.0.norm_q.weight: missing",
            ),
        ),
        (
            lambda blob, torch: blob["decoder1"].update(
                {"model.0.mlp.fc1.weight": torch.ones(8, 4), "model.0.norm_q.bias": torch.ones(5)}
            ),
            (
                "decoder1/model.0.mlp.fc1.weight: shape: expected [8, 8], found [8, 4]",
                "decoder1/model.0.norm_q.bias: shape: expected [8], found [5]",
            ),
        ),
        (
            lambda blob, torch: blob["awl"].update(params=torch.tensor([1.0, float("nan"), 1.0])),
            ("awl/params: 1 of 3 values are NaN or infinite",),
        ),
        (
            lambda blob, torch: blob["awl"].update(params=blob["awl"]["params"].double()),
            ("awl/params: dtype: expected float32, found float64",),
        ),
        (
            lambda blob, torch: blob["awl"].update({0: torch.ones(3)}),
            ("awl/0: expected names of tensors, found a int",),
        ),
        (
            lambda blob, torch: blob.update(optimizer=3),
            ("optimizer: expected a dict with state and param_groups",),
        ),
        (
            lambda blob, torch: blob.clear(),
            ("not a known checkpoint", "found 0 keys: nothing"),
        ),
    ],
    ids=["renamed", "transposed", "nan", "dtype", "number", "optimizer", "empty"],
)
def test_bad_files_are_explained_and_leave_nothing(
    tmp_path, small_state, small_model, write_pth, torch, spoil, problems
):
    path = write_pth(tmp_path / "best.pth", small_state)
    blob = torch.load(path, weights_only=False)
    spoil(blob, torch)
    torch.save(blob, path)
    with pytest.raises(ValueError) as caught:
        convert.run(options(source=str(path), workdir=str(tmp_path / "runs" / "a")))
    assert str(caught.value).startswith(f"{path}: ")
    for line in problems:
        assert line in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_verify_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="verify needs --reference=DIR"):
        verify.run(options())
    with pytest.raises(ValueError, match="--checkpoint and --against together"):
        verify.run(options(checkpoint="a.pth"))
    with pytest.raises(ValueError, match="no folder checkpoints in it"):
        verify.run(options(checkpoint=str(tmp_path), against=str(tmp_path)))


def test_verify_exits_with_one_on_a_miss(reference, capsys, monkeypatch):
    from finecausal_jax.verification import checks

    flags = options(reference=str(reference), cases=["schedule"])
    assert verify.run(flags) == 0
    assert "4 of 4 checks within limits" in capsys.readouterr().out
    monkeypatch.setattr(checks, "LEARNING_RATE", 1e-9)
    assert verify.run(flags) == 1
    assert "MISS schedule" in capsys.readouterr().out


def test_export_takes_the_runs_own_network(tmp_path):
    import ml_collections

    assert things.model_of(tmp_path, None).embedding == 64
    (tmp_path / "conversion.json").write_text('{"model": {"embedding": 32, "frame_width": 0.5}}')
    assert things.model_of(tmp_path, None).embedding == 32
    (tmp_path / "conversion.json").write_text('{"model": {"depth": 3}}')
    with pytest.raises(ValueError, match=r"conversion\.json: .*\n  model.depth: no such argument"):
        things.model_of(tmp_path, None)
    (tmp_path / "conversion.json").write_text('{"model": {"dtype": "float31"}}')
    with pytest.raises(ValueError, match="model.dtype: data type 'float31' not understood"):
        things.model_of(tmp_path, None)
    model = {"embedding": 16, "frame_width": 0.25, "dtype": "float32", "stage_frames": [12, 12, 12]}
    config = ml_collections.ConfigDict({"model": model, "data": {"frames": 96}})
    (tmp_path / "config.json").write_text(config.to_json())
    assert things.model_of(tmp_path, None).embedding == 16
    assert things.model_of(tmp_path, read(config)).stage_frames == (12, 12, 12)
