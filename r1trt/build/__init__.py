"""From an exported graph to engines: profiles, the builder's child process, and reading back what it made."""
