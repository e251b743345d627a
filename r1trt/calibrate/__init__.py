"""Static FP8 scales: ranges measured on text inside the exported graph."""
