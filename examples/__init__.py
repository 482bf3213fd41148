"""A script for each figure: `python -m examples.law`."""
