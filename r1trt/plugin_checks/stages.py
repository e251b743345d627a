"""Names of a run's stages, and the range of its seeds: what the command line has to know of a run."""

from __future__ import annotations

BUILD, TIME = "build", "time"
CHECKS = ("check", "sanitize", "harness", "graph")
STAGES = (BUILD, *CHECKS, TIME)
MAX_SEED = (1 << 63) - 1
