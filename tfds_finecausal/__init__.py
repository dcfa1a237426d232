"""The FineDiving-HM release: read and checked, built with TFDS, or rendered for want of it."""
