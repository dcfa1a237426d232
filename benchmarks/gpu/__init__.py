"""What is measured on a machine with one NVIDIA GPU, in parts that resume; see docs/gpu.md.

`python -m benchmarks.gpu PART` runs a part: each measurement is a process of its own, whose values
are written as soon as they are known. This side needs the standard library alone, so that a machine
on which nothing else can be imported still tells so.
"""
