"""One file per command of `python -m benchmarks`: arguments, printing, exit code."""
