"""What a run stands on: hosts, devices, files, checkpoints, memory, the environment."""
