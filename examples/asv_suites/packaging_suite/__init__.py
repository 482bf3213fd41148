"""How fast does `packaging` parse, compare and match versions? A suite to compare two of its releases with."""
