"""The command line: one file per command. Importing it imports neither torch nor rich."""
