"""Structured pruning: whole channels go, weights are inherited, the graph stays dense."""
