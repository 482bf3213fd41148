"""The regression gate: is one version of a package slower than another?

The gate measures a `Workload` (workload.py), or the asv suite of any project, and knows nothing else of the project. It imports
the standard library, scipy, rich and `benchmarks.system`; asv for other projects; torch, if installed, to count instructions.

    rule        from the changes that processes saw to a verdict
    versions    take a version out of git and build it
    processes, worker, messages, counters    the measuring processes
    side_by_side    run jobs on a core each
    measuring   a comparison: two versions and all their measurements
    asv_project, environments    read asv.conf.json and build two versions of any project
    asv_worker, asv_suite    run in a version's environment: measure on command, find the benchmarks
    asv_process, lockstep, pairs, guarded    measure in pairs of processes in lock step
    figures, against_itself    judge figures; judge the machine by comparing base with base
    foreign, __main__    the command for any project
    signals, instructions    exact counts, time, instructions: each with its own rule
    estimate    how long a comparison takes
    report, output    tables, files and exit codes
    injection, canary, calibration, records, error_rates, other_rules    how often the gate errs
    known_project, lockstep_calibration    how often it errs in lock step
"""
