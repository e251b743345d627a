"""Where a model's time goes: arithmetic, bytes and memory of its parts, by a roofline and as measured."""
