"""Git, files, errors, durations, units, the machine and process groups: the only place for each."""
