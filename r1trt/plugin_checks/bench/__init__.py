"""Our kernels and their peers timed side by side, against floors and aims; needs torch."""
