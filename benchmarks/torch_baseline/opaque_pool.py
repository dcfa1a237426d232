"""3-D max-pooling that `torch.compile` calls instead of generating code for it.

Inductor (PyTorch 2.13, CPU) fuses the BatchNorm and ReLU before a pool into a scalar loop over its
taps, which computes both anew for each of 27 taps: one trunk then took 6 times as long as eagerly
(8.7 s against 1.4 s for 4 clips on two busy cores). PyTorch's own kernel stays out of that.
"""

import torch
from torch import Tensor


def max_pool3d(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max-pool in ceil mode without padding.

    Args:
        x: [n, c, d, h, w].
        kernel: taps an axis; stride: steps an axis.

    Returns:
        [n, c, d', h', w'].
    """
    return _pool(x, list(kernel), list(stride))[0]


@torch.library.custom_op("finecausal::max_pool3d", mutates_args=())
def _pool(x: Tensor, kernel: list[int], stride: list[int]) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.max_pool3d_with_indices(x, kernel, stride, [0] * 3, [1] * 3, True)


@torch.library.custom_op("finecausal::max_pool3d_backward", mutates_args=())
def _pool_backward(
    gradient: Tensor, x: Tensor, indices: Tensor, kernel: list[int], stride: list[int]
) -> Tensor:
    return torch.ops.aten.max_pool3d_with_indices_backward(
        gradient, x, kernel, stride, [0] * 3, [1] * 3, True, indices
    )


@_pool.register_fake
def _(x: Tensor, kernel: list[int], stride: list[int]) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.max_pool3d_with_indices(x, kernel, stride, [0] * 3, [1] * 3, True)


@_pool_backward.register_fake
def _(gradient: Tensor, x: Tensor, indices: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    return torch.empty_like(x)


def _save(ctx, inputs, output) -> None:
    x, ctx.kernel, ctx.stride = inputs
    ctx.save_for_backward(x, output[1])


def _differentiate(ctx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
    x, indices = ctx.saved_tensors
    return _pool_backward(gradient, x, indices, ctx.kernel, ctx.stride), None, None


_pool.register_autograd(_differentiate, setup_context=_save)
