"""A model's parts on several machines: a Ray actor a stage, requests in lanes that keep them busy."""
