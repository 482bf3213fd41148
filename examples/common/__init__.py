"""Shared by the examples: data, the run of an example, intervals."""
