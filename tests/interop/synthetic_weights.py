"""Making optimizers as the reference has them, and comparing states."""

import numpy as np

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
NEVER_CALLED = ("regressor_delta3/", "video_encoder/backbone.fc.")


def parameters_of(torch, state):
    """{module: {key: Parameter}} in the order in which PyTorch registers them."""
    return {
        module: {
            key: torch.nn.Parameter(torch.from_numpy(np.array(value)))
            for key, value in tensors.items()
            if not key.endswith(BUFFERS)
        }
        for module, tensors in state.items()
    }


def trained_adam(torch, state, order, frozen=(), steps=3, **settings):
    """Takes a few steps with random gradients; returns parameters and the optimizer."""
    parameters = parameters_of(torch, state)
    groups = [{"params": list(parameters[module].values())} for module in order if module in state]
    groups[0]["lr"] = 1e-4
    optimizer = torch.optim.Adam(groups, lr=1e-3, **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for module, tensors in parameters.items():
            for key, parameter in tensors.items():
                if module not in frozen and not f"{module}/{key}".startswith(NEVER_CALLED):
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameters, optimizer


def as_arrays(state_dict):
    """An optimizer's state dict with NumPy arrays, as the file reader gives it."""
    states = {
        number: {name: value.numpy() for name, value in state.items()}
        for number, state in state_dict["state"].items()
    }
    return {"state": states, "param_groups": state_dict["param_groups"]}


def assert_same(found, want):
    """Asserts two states equal in names, dtypes, shapes and bytes."""
    assert list(found) == list(want)
    for module in want:
        assert list(found[module]) == list(want[module]), module
        for key, value in want[module].items():
            other = np.asarray(found[module][key])
            assert other.dtype == value.dtype, (module, key)
            assert other.shape == value.shape, (module, key)
            assert other.tobytes() == value.tobytes(), (module, key)
