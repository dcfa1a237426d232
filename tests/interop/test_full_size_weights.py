"""Full-size files of every kind, through a checkpoint and back, against real PyTorch."""

import subprocess
import sys
import time

import numpy as np
import pytest
from synthetic_weights import assert_same, trained_adam

from configs import fineparser
from finecausal_jax.interop import conversion, export
from finecausal_jax.interop.checkpoint_files import read_weights
from finecausal_jax.interop.conversion import convert_file
from finecausal_jax.interop.order import CAUSAL_MODULES, OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import rename_to_pytorch
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.settings import read, things

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("seed", "data_parallel"), [(0, False), (7, True), (2026, True)])
def test_a_released_file_comes_back_bit_for_bit(tmp_path, seeded, torch, seed, data_parallel):
    from benchmarks.torch_baseline.checkpoint import load_checkpoint
    from benchmarks.torch_baseline.model import FineCausal

    source = tmp_path / "best.pth"
    seeded.save_pth(source, seed, data_parallel)
    conversion.save_converted(convert_file(source), tmp_path / "run")
    content = export.read_checkpoint(tmp_path / "run")
    export.write_pytorch(content, tmp_path / "back.pth")
    want = seeded.state(seed)
    assert_same({m: read_weights(tmp_path / "back.pth").state[m] for m in want}, want)
    # PyTorch modules of the reference's names, strictly.
    load_checkpoint(FineCausal(), tmp_path / "back.pth")

    arguments = conversion.model_to_json(things.model_of(tmp_path / "run", None))
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

    # Its own config has a place for everything in the file, and for nothing else.
    settings = read(fineparser.get_config())
    converted = convert_file(source, model=things.make_model(settings))
    assert not converted.fresh
    conversion.save_converted(converted, tmp_path / "own")
    _, variables = things.load_network(settings, tmp_path / "own", "latest", make_layout())
    found = rename_to_pytorch(variables)
    assert_same({m: {k: want[m][k] for k in found[m]} for m in found}, found)
    assert want.keys() - found.keys() == {"regressor_delta3"}


def test_adams_moments_come_back_bit_for_bit(tmp_path, seeded, torch, write_pth):
    state = seeded.state(5)
    _, optimizer = trained_adam(torch, state, OPTIMIZER_GROUPS)
    want = optimizer.state_dict()
    source = write_pth(tmp_path / "best.pth", state, prefix="module.", optimizer=want)
    conversion.save_converted(convert_file(source), tmp_path / "run")
    export.write_pytorch(export.read_checkpoint(tmp_path / "run"), tmp_path / "back.pth")
    found = torch.load(tmp_path / "back.pth")["optimizer"]
    assert found["param_groups"] == want["param_groups"]
    assert found["state"].keys() == want["state"].keys()
    for number, moments in want["state"].items():
        for name, value in moments.items():
            assert torch.equal(found["state"][number][name], value), (number, name)
    optimizer.load_state_dict(found)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretrained_networks_fill_their_trunks(tmp_path, seeded, write_flat, suffix):
    state = seeded.state(5)
    trunks = {
        module: {
            key.removeprefix("backbone."): value
            for key, value in state[module].items()
            if key.startswith("backbone.")
        }
        for module in ("base_model", "video_encoder")
    }
    classifier = {
        "conv3d_0c_1x1.conv3d.weight": np.ones((400, 1024, 1, 1, 1), np.float32),
        "conv3d_0c_1x1.conv3d.bias": np.ones(400, np.float32),
    }
    kinetics = write_flat(tmp_path / f"model_rgb{suffix}", trunks["base_model"] | classifier)
    resnet = write_flat(tmp_path / f"resnet34{suffix}", trunks["video_encoder"])
    for path, places, counts in (
        (kinetics, {"base_model": "backbone.", "segmenter": ""}, (570, 746)),
        (resnet, {"video_encoder": "backbone."}, (180, 1136)),
    ):
        converted = convert_file(path)
        assert (len(converted.conversion.sources), len(converted.fresh)) == counts
        found = rename_to_pytorch(converted.variables)
        for module, prefix in places.items():
            source = trunks["base_model" if module == "segmenter" else module]
            for key, value in source.items():
                if not key.endswith("num_batches_tracked") and not key.startswith("fc."):
                    assert np.array_equal(found[module][prefix + key], value), (module, key)


def test_converting_takes_under_a_minute_and_2_gb(tmp_path, seeded, reference):
    seeded.save_pth(tmp_path / "best.pth", 0)
    program = (
        "import atexit, pathlib, sys\n"
        "from finecausal_jax import command_line\n"
        "def show():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    print(next(line for line in lines if line.startswith('VmHWM')))\n"
        "atexit.register(show)\n"
        "command_line.main(['launch.py', *sys.argv[1:]], pathlib.Path.cwd())\n"
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
