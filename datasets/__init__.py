"""The datasets to evaluate on: images with their labels, boxes and masks. Imported as `eigencam.datasets`."""

if __name__ != "eigencam.datasets":
    raise ImportError(
        "this folder is the package `eigencam.datasets`: import it by that name (installed by `make setup`)"
    )
