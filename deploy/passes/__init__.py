"""Rewrites of a student's graph: each takes a model and returns an equal one."""
