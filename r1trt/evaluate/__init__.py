"""How far a model's outputs are from a reference's, on text: figures, no directories."""
