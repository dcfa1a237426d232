"""Full-size files of every kind, through a checkpoint and back, against real PyTorch."""

import subprocess
import sys
import time

import numpy as np
import pytest
from made_weights import assert_same

from finecausal_jax.interop import conversion, export
from finecausal_jax.interop.checkpoint_files import read_weights
from finecausal_jax.interop.conversion import convert_file
from finecausal_jax.interop.order import CAUSAL_MODULES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("seed", "data_parallel"), [(0, False), (7, True), (2026, True)])
def test_a_released_file_comes_back_bit_for_bit(tmp_path, seeded, torch, seed, data_parallel):
    from finecausal_jax.benchmark.torch_baseline.checkpoint import load_checkpoint
    from finecausal_jax.benchmark.torch_baseline.model import FineCausal

    source = tmp_path / "best.pth"
    seeded.save_pth(source, seed, data_parallel)
    conversion.save_converted(convert_file(source), tmp_path / "run")
    content = export.read_checkpoint(tmp_path / "run")
    export.write_pytorch(content, tmp_path / "back.pth")
    want = seeded.state(seed)
    assert_same({m: read_weights(tmp_path / "back.pth").state[m] for m in want}, want)
    # PyTorch modules of the reference's names, strictly.
    load_checkpoint(FineCausal(), tmp_path / "back.pth")

    arguments = conversion.model_to_json(export.model_of(tmp_path / "run"))
    path = tmp_path / "back.safetensors"
    export.write_safetensors(content, path, model_arguments=arguments)
    found = read_weights(path).state
    assert_same({m: {k: found[m][k] for k in want[m]} for m in want}, want)


def test_fineparsers_file_comes_back_bit_for_bit(tmp_path, seeded, write_pth):
    want = {m: tensors for m, tensors in seeded.state(3).items() if m not in CAUSAL_MODULES}
    source = write_pth(tmp_path / "best.pth", want, prefix="module.")
    converted = convert_file(source)
    residual = converted.variables["params"]["causal_intervention"]["residual_weight"]
    assert np.allclose(residual, 0.1)  # the reference's initial value
    assert np.all(converted.variables["params"]["awl"] == 1)
    conversion.save_converted(converted, tmp_path / "run")
    content = export.read_checkpoint(tmp_path / "run", without_causal=True)
    export.write_pytorch(content, tmp_path / "back.pth")
    assert_same({m: read_weights(tmp_path / "back.pth").state[m] for m in want}, want)


def test_converting_takes_under_a_minute_and_2_gb(tmp_path, seeded, reference):
    seeded.save_pth(tmp_path / "best.pth", 0)
    program = (
        "import atexit, launch, sys\n"
        "def show():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    print(next(line for line in lines if line.startswith('VmHWM')))\n"
        "atexit.register(show)\n"
        "launch.main(['launch.py', *sys.argv[1:]])\n"
    )
    arguments = ["convert", f"--source={tmp_path / 'best.pth'}", f"--workdir={tmp_path / 'run'}"]
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        cwd=reference.parents[1],
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - start < 60
    name, peak, unit = result.stdout.splitlines()[-1].split()
    assert (name, unit) == ("VmHWM:", "kB")
    assert int(peak) < 2e6
