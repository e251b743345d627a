"""Expert pruning: which experts matter on text, and a new checkpoint without the others."""
