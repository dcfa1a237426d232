"""What can be chosen of a benchmark: the words that flags and workers share."""

SECTIONS = ("forward", "train", "evaluation", "pipeline")
TORCH_SETTINGS = ("reference", "channels_last", "compiled")  # `torch_baseline.SETTINGS`
DEVICES = ("cpu", "gpu", "tpu")
