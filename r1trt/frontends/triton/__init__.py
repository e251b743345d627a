"""What runs inside Triton's Python backend, beside the scheduler; copied into model repositories."""
