"""Precision as data: the plan, the rules that make it, calibration, and the quantization of weights."""
