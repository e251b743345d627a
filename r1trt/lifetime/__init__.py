"""The life of this process: how signals end it, what its end removes, and children that end with it."""
