"""The command that times both frameworks; `launch.py` lists it with the package's own."""
