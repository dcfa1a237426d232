"""Safetensors work, and importing anything works, where PyTorch is not installed."""

import subprocess
import sys
import textwrap

import numpy as np

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "tensorflow"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def run(code, *arguments):
    program = BLOCK + textwrap.dedent(code)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_importing_needs_no_pytorch_and_starts_no_device():
    result = run(
        """
        import importlib, pkgutil
        import finecausal_jax.interop as interop
        import finecausal_jax.commands.convert, finecausal_jax.commands.export
        import finecausal_jax.commands.verify
        for module in pkgutil.iter_modules(interop.__path__):
            importlib.import_module(f"finecausal_jax.interop.{module.name}")
        from jax._src import xla_bridge
        assert not xla_bridge.backends_are_initialized()
        print("imported")
        """
    )
    assert result.stdout.strip().endswith("imported"), result.stderr


def test_safetensors_are_read_and_pth_is_explained(tmp_path, small_state):
    from safetensors.numpy import save_file

    tensors = {f"{m}/{k}": np.array(v) for m, ts in small_state.items() for k, v in ts.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    (tmp_path / "a.pth").write_bytes(b"x")
    result = run(
        """
        from finecausal_jax.interop.checkpoint_files import read_weights
        found = read_weights(sys.argv[1])
        print(found.kind, sum(len(tensors) for tensors in found.state.values()))
        try:
            read_weights(sys.argv[2])
        except ValueError as error:
            print(error)
        """,
        tmp_path / "a.safetensors",
        tmp_path / "a.pth",
    )
    assert f"FineCausal checkpoint {len(tensors)}" in result.stdout, result.stderr
    assert "reading a .pth needs PyTorch, which is not installed: pip install -e" in result.stdout
