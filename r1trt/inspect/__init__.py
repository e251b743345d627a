"""`r1trt inspect`: summaries of checkpoints, artifacts and single files."""
