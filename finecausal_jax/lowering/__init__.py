"""How convolutions, pools, ReLUs and normalisations are computed.

A layer says `convolve(x, ...)`, `max_pool(x, ...)`, `relu(x)`, `concatenate(parts)`; which form
suits the platform, what is kept for the backward pass and which gradient runs is decided here. What
goes from one of these functions to the next is an array, or one that nothing has computed yet
(`rectified`), and a layer need not know which.

With `plain=True` a function computes what it says as written, on every platform, and autodiff finds
its gradients: what the forms here are compared with, and a way to find out whether one of them is
to blame. What a layer gets is an array then, always.
"""
