"""One script per figure, run as a module: `python -m examples.law`."""
