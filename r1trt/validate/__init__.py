"""Comparing every stage of the pipeline with the checkpoint, on real text."""
