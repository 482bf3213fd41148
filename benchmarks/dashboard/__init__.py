"""The pages that show the history."""
