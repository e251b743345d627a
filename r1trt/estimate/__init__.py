"""What a model takes, from its configuration and headers alone: sizes, memory, disk, GPUs, times."""
