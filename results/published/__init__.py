"""The papers' numbers and the layouts of their tables; see `eigencam.evaluation.papers`."""
