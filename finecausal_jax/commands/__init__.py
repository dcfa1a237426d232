"""The commands of `launch.py`: one module each, with its help, its flags and `run`."""


def define_weights() -> None:
    """Defines --weights, for a command that scores with a checkpoint or with a file of weights."""
    from absl import flags

    flags.disclaim_key_flags()  # so that help lists the flag as the command's own
    flags.DEFINE_string(
        "weights",
        "",
        "Weights instead of a checkpoint: a file (.safetensors or .pth), a folder with one, or the "
        "name of weights that come with this package, such as rendered.",
    )


def define_scorer() -> None:
    """Defines --checkpoint, --weights, --pixels and --bank, for a command that explains scores."""
    from absl import flags

    flags.disclaim_key_flags()  # so that help lists the flags as the command's own
    flags.DEFINE_string(
        "checkpoint", "best", "Which checkpoint of --workdir: best, latest or a step."
    )
    define_weights()
    flags.DEFINE_bool(
        "pixels",
        True,
        "Intervene on pixels too: the diver, the rest, the splash, a stage. Nine more videos to "
        "encode.",
    )
    flags.DEFINE_string(
        "bank", None, "Folder of a bank of features made from the same checkpoint and data."
    )
