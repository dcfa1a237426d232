"""The commands of `launch.py`: one module each, with its help, its flags and `run`."""
