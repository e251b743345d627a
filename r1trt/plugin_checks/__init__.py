"""Checks and timings of the plugins' kernels on a GPU, or by a layer that executes them on the CPU."""
