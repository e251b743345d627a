"""Precision by layer: what each choice costs in accuracy and in time, and the best plan under a budget."""
