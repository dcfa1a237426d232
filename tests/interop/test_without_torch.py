"""Safetensors work where PyTorch is not installed; `test_launch` has that nothing imports it."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

# As if they were not installed, also to libraries that look without importing.
BLOCK = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    blocked = name.split(".")[0] in ("torch", "torchvision", "tensorflow")
    return None if blocked else find(name, path, target)

PathFinder.find_spec = find_others
"""


def run(code, *arguments):
    program = BLOCK + textwrap.dedent(code)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_weights_are_read_without_pytorch(tmp_path, small_state, write_pth):
    from safetensors.numpy import save_file

    tensors = {f"{m}/{k}": np.array(v) for m, ts in small_state.items() for k, v in ts.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    write_pth(tmp_path / "a.pth", small_state)
    result = run(
        """
        from finecausal_jax.interop.checkpoint_files import read_weights
        for path in sys.argv[1:]:
            found = read_weights(path)
            print(found.kind, sum(len(tensors) for tensors in found.state.values()))
        """,
        tmp_path / "a.safetensors",
        tmp_path / "a.pth",
    )
    assert result.stdout.splitlines() == [f"FineCausal checkpoint {len(tensors)}"] * 2, (
        result.stderr
    )


def test_pytorch_is_truly_blocked():
    result = run(
        """
        for name in ("torch", "torchvision", "tensorflow"):
            try:
                __import__(name)
            except ImportError as error:
                print(error)
        """
    )
    assert result.stdout.splitlines() == [
        f"No module named '{name}'" for name in ("torch", "torchvision", "tensorflow")
    ]


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few tensors", "whole"]
)
def test_safetensors_are_converted_exported_and_come_back(tmp_path, small_tensors, whole):
    """The commands, on a small network, or what is taken to be all of it."""
    (tmp_path / "tensors").write_bytes(pickle.dumps(None if whole else small_tensors))
    result = run(
        """
        import pathlib, pickle, types
        import numpy as np
        from finecausal_jax.commands import convert, verify
        from finecausal_jax.commands import export as export_command
        from finecausal_jax.interop import conversion, expected, export, pytorch
        from finecausal_jax.models.finecausal import FineCausal

        model = FineCausal(
            frames=16, windows=2, window_frames=8, window_stride=8, width=1 / 16,
            frame_width=1 / 8, embedding=8, stage_frames=(4, 4, 4), stage_margin=1,
        )
        tensors = pickle.loads(pathlib.Path(sys.argv[1], "tensors").read_bytes())
        if tensors is None:
            tensors = expected.expected_tensors(model)
        else:  # as the fixture `small_model` does
            for module in (conversion, export, pytorch):
                module.expected_tensors = lambda model=None: tensors
        random = np.random.default_rng(0)
        state = {}
        for (module, key), want in tensors.items():
            value = random.uniform(0.1, 1, want.shape).astype(want.dtype)
            state.setdefault(module, {})[key] = value
        first, second, workdir = (str(pathlib.Path(sys.argv[1], name)) for name in (
            "a/first.safetensors", "b/second.safetensors", "run"
        ))
        progress = dict(epoch=3, epoch_best_aqa=3, rho_best=0.9, L2_min=17.5, RL2_min=0.002)
        content = export.Export(
            step=0, state=state, adam=None, progress=progress, unknown=[], defaults=[],
            optimizer_groups=False,
        )
        export.write_safetensors(
            content, first, model_arguments=conversion.model_to_json(model)
        )
        options = dict(workdir=workdir, config=None, reference=None)
        for command, more in (
            (convert, dict(source=first, drop_optimizer=False)),
            (
                export_command,
                dict(
                    format="safetensors", output=second, checkpoint="best", fineparser=False,
                    weights="", dtype="float32",
                ),
            ),
            (verify, dict(checkpoint=second, against=first)),
        ):
            print("exit code", command.run(types.SimpleNamespace(**options, **more)))
        print([name for name in sys.modules if name.split(".")[0] == "torch"])
        """,
        tmp_path,
    )
    lines = result.stdout.splitlines()
    assert lines.count("exit code 0") == 3, result.stderr
    count = 1520 if whole else len(small_tensors)
    assert f"{count} tensors are equal bit for bit, 0 differ" in lines
    assert lines[-1] == "[]"
