"""Evaluate a trained network on the test split, beside predictors that see no pixel.

Every test dive is compared with config.evaluate.exemplars training dives of its dive number.
Prints a table and writes evaluation.json and evaluation.png into --workdir.

    python launch.py evaluate --config=configs/demo.py --workdir=runs/demo
"""

import pathlib
from typing import Any

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --checkpoint."""
    from absl import flags

    flags.DEFINE_string(
        "checkpoint",
        "best",
        "Which checkpoint: best, latest or a step. The best is chosen on the test split itself, as "
        "the paper's protocol does, which flatters it; latest is not.",
    )


def run(flags: Any) -> int:
    """Evaluates; returns the exit code."""
    import jax

    from finecausal_jax import settings
    from finecausal_jax.evaluation import report
    from finecausal_jax.training import checkpoints, loop, sharding, state
    from finecausal_jax.training.compilation_cache import use_compilation_cache

    if not flags.workdir:
        raise ValueError("evaluate needs --workdir=DIR, the folder of a run")
    config, folder = flags.config, pathlib.Path(flags.workdir)
    use_compilation_cache(config.train.compilation_cache, folder)
    mesh = sharding.make_mesh()
    model = settings.make_model(config)
    whole = sharding.replicated(mesh)
    shapes = jax.eval_shape(
        lambda: state.init_variables(model, config.data.frame_size, jax.random.key(0))
    )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes
    )
    step, variables = checkpoints.load_variables(folder, abstract, flags.checkpoint)
    result = loop.evaluate_variables(
        config,
        model,
        variables,
        settings.open_dives(config, "test"),
        settings.open_dives(config, "train"),
        mesh,
    )
    report.print_table(result, data_name=config.data_name)
    table = report.write_json(result, folder / "evaluation.json", data_name=config.data_name)
    plot = report.write_scatter(result, folder / "evaluation.png", data_name=config.data_name)
    print(f"checkpoint of step {step}; wrote {table} and {plot}")
    return 0
