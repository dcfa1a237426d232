"""Export a checkpoint as the reference's .pth, or as safetensors with a config.json.

A .pth (--format=pytorch) loads strictly into the reference's modules, optimizer included, and
needs PyTorch to write: pip install -e .[torch]. Safetensors need no PyTorch to write or to read.
Tensors that only the reference holds are those of the converted file, or zeros where the
checkpoint never had them: nothing reads them.

    python launch.py export --workdir=runs/released --format=pytorch --output=best.pth
"""

from __future__ import annotations

import pathlib
from typing import Any

from finecausal_jax.commands import define_weights
from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = False
ONLY_READS_WORKDIR = True


def define_flags() -> None:
    """Defines --format, --dtype, --output, --checkpoint, --weights, --fineparser and --config."""
    from absl import flags
    from ml_collections import config_flags

    flags.DEFINE_enum("format", "pytorch", ["pytorch", "safetensors"], "What to write.")
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16"],
        "What safetensors hold: bfloat16 is rounded, for half the size.",
    )
    flags.DEFINE_string("output", None, "The file to write.", required=True)
    flags.DEFINE_string("checkpoint", "best", "Which checkpoint: best, latest or a step.")
    define_weights()
    flags.DEFINE_bool(
        "fineparser", False, "Leave out the modules that FineCausal added to FineParser."
    )
    config_flags.DEFINE_config_file(
        "config", None, "Config of the run; the workdir's own, or the published network's."
    )


def run(flags: Any) -> int:
    """Exports; returns the exit code."""
    if not flags.workdir and not flags.weights:
        raise InputError(
            "export needs --workdir=DIR, the folder of a run or a conversion, or --weights=PATH"
        )
    from finecausal_jax.interop import conversion, export, weights
    from finecausal_jax.settings import read, things
    from finecausal_jax.settings.workdirs import saved_settings

    output = pathlib.Path(flags.output)
    # What cannot be written is told before anything is read, which takes a while.
    if (flags.format == "safetensors") != (output.suffix == ".safetensors"):
        raise InputError(
            f"--output={output} with --format={flags.format}: a name ends in .safetensors if and "
            "only if the format is safetensors; every reader goes by the name"
        )
    if flags.dtype != "float32" and flags.format != "safetensors":
        raise InputError(f"--dtype={flags.dtype}: a .pth holds float32, as the reference's do")
    if output.is_dir():
        raise InputError(f"--output={output} is a folder: expected the name of a file")
    if flags.format == "safetensors":
        export.refuse_foreign_config(output)
    settings = None if flags.config is None else read(flags.config)
    besides = {}
    if flags.weights:
        model = None if settings is None else things.make_model(settings)
        given = weights.load(flags.weights, model)
        model = given.model
        besides = {n: given.config[n] for n in ("preprocessing", "settings") if n in given.config}
        content = export.of_weights(given, without_causal=flags.fineparser)
    else:
        model = things.model_of(flags.workdir, settings)
        saved = saved_settings(flags.workdir)
        if saved is not None:
            besides = things.described(saved)
        content = export.read_checkpoint(
            flags.workdir, which=flags.checkpoint, model=model, without_causal=flags.fineparser
        )
    if flags.format == "pytorch":
        export.write_pytorch(content, output, model=model)
    else:
        arguments = conversion.model_to_json(model)
        export.write_safetensors(
            content, output, model_arguments=arguments, besides=besides, dtype=flags.dtype
        )
    count = sum(len(tensors) for tensors in content.state.values())
    moments = "with" if content.adam is not None and flags.format == "pytorch" else "without"
    print(
        f"wrote {output}: checkpoint of step {content.step}, {count} tensors, {moments} Adam's "
        "moments"
    )
    if content.defaults:
        print(f"{len(content.defaults)} tensors that nothing reads are zeros")
    known = [name for name in content.progress if name not in content.unknown]
    for title, names in (
        ("progress", known),
        ("not known, left at what the reference starts with", content.unknown),
    ):
        if names:
            print(f"{title}: " + ", ".join(f"{name} {content.progress[name]:g}" for name in names))
    if moments == "with" and "epoch" in content.unknown:
        print("a PyTorch run resumed from it would begin its schedule at the first epoch")
    return 0
