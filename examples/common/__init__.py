"""What several examples share: data, the run of an example, intervals."""
