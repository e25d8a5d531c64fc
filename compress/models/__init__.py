"""Generators and discriminators, and how a file says which one it holds."""
