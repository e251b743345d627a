"""Cases of the three operators: sizes, tensors, definitions in FP64, tolerances."""
