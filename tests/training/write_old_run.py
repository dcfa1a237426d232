"""Wrote old_run.tar.xz, a run of an older version, with that version's code.

In a checkout of commit 49ab23a: python write_old_run.py FOLDER; tar -C FOLDER -cJf old_run.tar.xz .
Every array holds one value, by its name, so that the file is small and each can be told apart.
"""

import pathlib
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np

SIZES = {
    "data.frames": 16,
    "data.frame_size": 16,
    "data.resize_width": 16,
    "data.resize_height": 28,
    "model.windows": 1,
    "model.window_frames": 8,
    "model.width": 1 / 16,
    "model.frame_width": 1 / 8,
    "model.embedding": 8,
    "model.stage_frames": (4, 4, 4),
    "model.stage_margin": 1,
}


def value_of(name: str) -> float:
    """The value of the array "collection/module/.../name"."""
    return zlib.crc32(name.encode()) % 1000 / 1000


def main(folder: pathlib.Path) -> None:
    from configs import demo
    from finecausal_jax import settings
    from finecausal_jax.training import checkpoints, loop
    from finecausal_jax.training.optimiser import make_optimiser
    from finecausal_jax.training.state import init_state, init_variables

    config = demo.get_config()
    config.update_from_flattened_dict(SIZES)
    model = settings.make_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, 16, jax.random.key(0)))

    def fill(path, leaf):
        return np.full(leaf.shape, value_of("/".join(key.key for key in path)), leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    optimiser = make_optimiser(settings.make_optimiser_settings(config, 45))
    state = init_state(variables, optimiser)
    identity, adam, *rates = state.opt_state
    halves = jax.tree.map(lambda x: x * 0.5, variables["params"])
    adam = adam._replace(count=np.int32(7), mu=halves)
    state = state.replace(step=np.int32(7), opt_state=(identity, adam, *rates))
    state = jax.tree.map(jnp.asarray, state)
    loop.claim_workdir(folder, config)
    with checkpoints.CheckpointStore(folder) as store:
        optimiser_item = {"step": state.step, "opt_state": state.opt_state}
        items = {checkpoints.VARIABLES: state.variables, checkpoints.OPTIMISER: optimiser_item}
        store.save(7, items, {"spearman": 0.5})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
