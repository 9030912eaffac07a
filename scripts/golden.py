"""Write tests/golden.json: the numbers that every method, evaluator and shared part gives at its version.

And eigencam/store/raised.json: the versions above 1, for readers of results that import no method.

    python scripts/golden.py [--check]

A changed number is written only if a version it depends on was raised: the class's (`version = 2`; `summary_version =
2` if only `summary` changed), or that of the shared part that changed it (`VERSIONS = {"tape": 2}`). Otherwise nothing
is written, and the script prints which version would have to be raised. Unchanged numbers keep their lines.

The tolerance of a number is ten times the largest difference between runs with the processor's plain instructions, with
AVX2 and with all its instructions, each with and without oneDNN. One process computes all entries (25 s), and five
compute the tolerances of new ones.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from golden_file import FILE, Entry, added, moved, read, tolerances, what_to_raise, write  # noqa: E402
from golden_raised import RAISED, raised  # noqa: E402

SETTINGS = list(product(("", "default", "avx2"), ("onednn", "plain")))
"""torch's name of the processor's capability, "" for the default; whether oneDNN is used."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the file is not current")
    arguments = parser.parse_args()
    found = computed(*SETTINGS[0])
    there = read()
    if faults := list(refused(found, there)):
        print("\n".join(faults), file=sys.stderr)
        return 1
    if new := [name for name, entry in found.items() if is_new(entry, there.get(name))]:
        runs = [found, *(computed(*setting, new) for setting in SETTINGS[1:])]
        for name in new:
            found[name] = replace(found[name], tolerances=tolerances([run[name].cases for run in runs]))
    merged = {name: kept(entry, there.get(name)) for name, entry in found.items()}
    if changes := [name for name in {**merged, **there} if merged.get(name) != there.get(name)]:
        print(f"{FILE.name}: {len(changes)} of {len(merged)} entries change: {', '.join(sorted(changes))}")
    if not (current := raised() == RAISED.read_text()):
        print(f"{RAISED.name} changes")
    if not arguments.check:
        write(merged)
        RAISED.write_text(raised())
    return int(arguments.check and (bool(changes) or not current))


def computed(capability: str, library: str, names: Sequence[str] = ()) -> dict[str, Entry]:
    """The entries, or those with some names, computed in a separate process."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    chosen = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
    environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(
        [sys.executable, TESTS / "golden.py", library, *names],
        env=environment | threads | chosen,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {name: Entry(**content) for name, content in json.loads(done.stdout).items()}


def refused(found: Mapping[str, Entry], there: Mapping[str, Entry]) -> Iterator[str]:
    """Why the file may not be written."""
    before = {unversioned(name): entry for name, entry in there.items()}
    for name, entry in found.items():
        if (old := before.get(unversioned(name))) is None:
            continue
        if lower := [key for key, version in old.versions.items() if entry.versions.get(key, version) < version]:
            yield f"{name}: {', '.join(lower)} is lower than in {FILE.name}; versions only rise"
        elif old.versions == entry.versions and (lines := list(moved(entry, old))):
            yield f"{name}: raise {what_to_raise(name, entry.versions)}, or the version of the part that moved it, as"
            yield from (f"  {line}" for line in lines[:5])


def unversioned(name: str) -> str:
    """The name of an entry without versions: `Road@2 summary@1` is `Road summary`."""
    return re.sub(r"@\d+", "", name)


def is_new(entry: Entry, old: Entry | None) -> bool:
    """Whether the entry has numbers that need a tolerance."""
    return old is None or old.versions != entry.versions or bool(list(added(entry, old)))


def kept(entry: Entry, old: Entry | None) -> Entry:
    """The entry, with the file's digits and tolerances for everything that is unchanged."""
    if old is None or old.versions != entry.versions:
        return entry
    cases, tolerances = {}, {}
    for name, case in entry.cases.items():
        before = old.cases.get(name, {})
        cases[name] = {what: before.get(what, values) for what, values in case.items()}
        tolerances[name] = {k: v for k, v in entry.tolerances.get(name, {}).items() if k not in before}
        tolerances[name] |= {k: v for k, v in old.tolerances.get(name, {}).items() if k in case}
    return replace(entry, cases=cases, tolerances=tolerances)


if __name__ == "__main__":
    sys.exit(main())
