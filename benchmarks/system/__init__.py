"""Git, files, durations, the machine and process groups: the only place for each."""
