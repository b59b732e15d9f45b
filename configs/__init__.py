"""Experiments as records: each file's docstring says how it was run and what came out."""
