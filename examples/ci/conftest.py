"""Loads the plugin: one line in the topmost conftest.py of a suite."""

pytest_plugins = ["deploy.pytest_gate"]
