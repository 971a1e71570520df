"""Command line: one file per family of verbs."""
