"""Git, files, the machine and process groups: the only place for each."""
