"""FineDiving-HM as a TFDS data set."""
