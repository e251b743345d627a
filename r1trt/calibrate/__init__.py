"""Static scales: ranges measured on text inside the exported graph."""
