"""What was measured: asv's stored files, series, records, tables, change points."""
