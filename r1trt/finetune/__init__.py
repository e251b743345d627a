"""Fine-tuning for a precision plan: a checkpoint that has learned to live with the roundings of FP8."""
