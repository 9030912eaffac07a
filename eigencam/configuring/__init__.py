"""From the words of the command line to a checked config: names of methods, and the catalogue."""
