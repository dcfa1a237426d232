"""Convert PyTorch or safetensors weights into a checkpoint that every other command takes.

--source is a FineCausal or FineParser best.pth, Kinetics I3D (model_rgb.pth), torchvision's
ResNet-34, or a .safetensors file of one of these; its keys tell which. Prints what was mapped,
dropped and left at initial values, and writes checkpoint 0 into --workdir: all of it, or nothing
and an error that lists every offending tensor. A .pth is read without running anything in it.

    python launch.py convert --source=best.pth --workdir=runs/released
    python launch.py evaluate --config=configs/finediving_hm.py --workdir=runs/released

PyTorch is not needed. docs/weights.md has the mapping.
"""

from __future__ import annotations

from typing import Any

from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = False


def define_flags() -> None:
    """Defines --source, --config and --drop_optimizer."""
    from absl import flags
    from ml_collections import config_flags

    flags.DEFINE_string("source", None, "The file to convert.", required=True)
    config_flags.DEFINE_config_file(
        "config", None, "Config of the network to fill; the published network where left out."
    )
    flags.DEFINE_bool("drop_optimizer", False, "Convert the weights without Adam's moments.")


def run(flags: Any) -> int:
    """Converts; returns the exit code."""
    if not flags.workdir:
        raise InputError("convert needs --workdir=DIR, the folder to write the checkpoint to")
    from finecausal_jax.interop import conversion, expected, report, workdirs

    workdirs.refuse_checkpoints(flags.workdir)
    model, frame_size, seed = None, expected.FRAME_SIZE, 0
    if flags.config is not None:
        from finecausal_jax.settings import read, things

        settings = read(flags.config)
        model = things.make_model(settings)
        frame_size, seed = settings.data.frame_size, settings.seed
    converted = conversion.convert_file(
        flags.source,
        model=model,
        drop_optimizer=flags.drop_optimizer,
        frame_size=frame_size,
        seed=seed,
    )
    path = conversion.save_converted(converted, flags.workdir)
    report.print_conversion(converted)
    print(f"wrote {path}")
    return 0
