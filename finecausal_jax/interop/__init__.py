"""Weights in and out: PyTorch and safetensors files, and checks against recorded cases."""
