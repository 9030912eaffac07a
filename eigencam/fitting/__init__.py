"""Training and fitting, with the same loading and logging as runs."""
