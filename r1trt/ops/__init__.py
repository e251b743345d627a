"""Operators of the graph, one object each: what every stage has to know of a kind of layer."""
