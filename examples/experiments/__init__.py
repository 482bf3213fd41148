"""Longer examples, which compare the dropouts with each other: `python -m examples.experiments.moons`."""
