"""How fast does `markupsafe`, which is written in C, escape texts? A suite to compare two of its releases with."""
