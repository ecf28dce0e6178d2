"""The command line: words and colour, no decisions."""
