"""Evaluators, statistics and tables. Imported as `eigencam.evaluation`; needs no torch."""

if __name__ != "eigencam.evaluation":
    raise ImportError(
        "this folder is the package `eigencam.evaluation`: import it by that name (installed by `make setup`)"
    )
