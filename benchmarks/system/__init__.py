"""Git, files, errors, durations, units, the machine and process groups: other folders call these modules for them."""
