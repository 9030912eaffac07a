"""From a person's words to a checked config: names of methods, and the catalogue of what there is."""
