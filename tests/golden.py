"""All golden numbers of the current code; `golden_file.py` says what is kept of them."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import golden_rare
import golden_rare_values
import torch
from golden_evaluators import evaluator_entries
from golden_file import Entry
from golden_methods import method_entries
from golden_parts import part_entries


def makers() -> dict[str, partial[Entry]]:
    """The function that makes each entry, by name. Its first argument is the subject: a class, a function or a
    module."""
    found = [*part_entries(golden_rare_values.PARTS), *method_entries(golden_rare.METHODS)]
    found += evaluator_entries(golden_rare_values.EVALUATORS)
    made = dict(found)
    if len(made) < len(found):
        names = [name for name, _ in found]
        raise ValueError(f"two of one name: {sorted({name for name in names if names.count(name) > 1})}")
    return made


@contextmanager
def alone() -> Iterator[None]:
    """Use one thread, and suppress the warnings of other libraries."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Print all or the named entries as JSON: `python golden.py onednn|plain [NAME ...]`; `plain` is without oneDNN."""
    library, *names = sys.argv[1:]
    with alone(), torch.backends.mkldnn.flags(enabled=library == "onednn"):
        json.dump({name: asdict(make()) for name, make in makers().items() if not names or name in names}, sys.stdout)


if __name__ == "__main__":
    main()
