"""The regression gate: is one version of a package slower than another?

The gate measures a `Workload` (workload.py) and knows nothing else of the project. It imports the standard library, scipy,
rich and `benchmarks.system`; torch serves as a counter of instructions where it is installed.

    rule        from the changes that processes saw to a verdict
    versions    take a version out of git and build it
    processes, worker, messages, counters    the measuring processes
    measuring   a comparison: both versions and everything that was measured of them
    signals, instructions    exact counts, time, instructions: each with its own rule
    estimate    how long a comparison takes
    report, output    tables, files and exit codes
    injection, canary, calibration, records, error_rates, other_rules    how often the gate errs
"""
