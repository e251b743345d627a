"""A model in parts: where its graph is cut, and which cuts are best."""
