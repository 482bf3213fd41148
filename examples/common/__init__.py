"""Code that the examples share: data, the run of an example, confidence intervals."""
