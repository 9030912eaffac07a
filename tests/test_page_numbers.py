"""Numbers on the pages are those of a file written by a command."""

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
MEASURED = {
    "| choice |": "choices.csv",
    "| workers | ILSVRC, threads": "scaling_of_evaluators*.csv",
    "| network | methods | ours |": "cost_of_methods*.csv",
    "| images | network, methods, evaluators |": "speed_of_runs.csv",
    "| step | per image |": "unit_costs.csv",
    "| | ImageNet-21k": "unit_costs.csv",
    "| network | input | layer |": "zoo.csv",
    "| preprocessing | n |": "preprocessings.csv",
    "| network | ten methods |": "shared_passes.csv",
    "| metric | asks |": "metrics_judged.csv",
    "| method | planted |": "metrics_judged.csv",
    "| network | top-1 error % | MaxBoxAccV2": "training/tables.csv",
}
"""Tables of measured numbers by the beginning of their first line, and the file in `results/`."""
NOT_MEASURED = (
    "| where | theirs | ours |",
    "| data, method |",
    "| `dataset=` |",
    "| preset |",
    "| what | libraries |",
    "| paper | what one does |",
)
"""Tables of parameters, versions and rules."""
QUOTED = "| network | method | "
"""Tables that another test compares with the committed ones, line by line."""
NUMBER = re.compile(r"(?<![\w.,])-?\d+\.\d+(?![\w.])")


def tables() -> list[tuple[str, str, list[str]]]:
    """Page, first line and further lines of every table."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"(?:^\|.*\n)+", path.read_text() + "\n", re.MULTILINE):
            first, *rest = block.splitlines()
            found.append((path.name, first, rest))
    return found


WITH_NUMBERS = [(page, first, rest) for page, first, rest in tables() if len(NUMBER.findall("".join(rest))) > 2]


def rounded(file: str) -> set[tuple[int, str]]:
    """The numbers of a file with 0 to 2 decimals, plain and in percent."""
    text = "".join(path.read_text() for path in sorted((ROOT / "results").glob(file)))
    values = [float(number) for number in re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.])", text)]
    return {(k, f"{scale * value:.{k}f}") for value in values for k in (0, 1, 2) for scale in (1, 100)}


@pytest.mark.parametrize(("page", "first", "rest"), WITH_NUMBERS, ids=lambda value: str(value)[:40])
def test_a_table_s_numbers_are_in_the_file_that_a_command_wrote(page: str, first: str, rest: list[str]) -> None:
    if first.startswith((*NOT_MEASURED, QUOTED)) and not first.startswith(tuple(MEASURED)):
        return
    file = next((file for start, file in MEASURED.items() if first.startswith(start)), None)
    assert file, f"{page}: {first}: say in this test which file its numbers are from"
    there = rounded(file)
    for line in rest:
        for number in NUMBER.findall(line):
            assert (len(number.partition(".")[2]), number) in there, f"{page}: {number} is not in {file}: {line}"


def test_the_choices_are_those_of_their_file() -> None:
    [rest] = [rest for page, first, rest in tables() if page == "differences.md" and first.startswith("| choice |")]
    shown = [tuple(cell.strip() for cell in line.strip("|").rsplit("|", 1)) for line in rest[1:]]
    lines = csv.DictReader(line for line in (ROOT / "results/choices.csv").read_text().splitlines() if line[0] != "#")
    assert shown == [(line["choice"], line["top1_loc_error"]) for line in lines]


def test_quoted_agreement_with_peers_is_that_of_the_agreement_files() -> None:
    quoted = 0
    for _, _, rest in tables():
        for line in rest:
            for value in re.findall(r"rank correlation (\d\.\d+) with theirs", line):
                [method] = re.findall(r"^\| `(\w+)`", line)
                found = pd.concat(
                    pd.read_csv(path, comment="#") for path in sorted((ROOT / "results").glob("agreement_*.csv"))
                )
                of = found[found["method"].str.startswith(method) & found["reference"].str.contains("its defaults")]
                assert {f"{rho:.2f}" for rho in of["rho_median"]} == {value}, line
                quoted += 1
    assert quoted >= 2


def test_numbers_of_anchors_are_those_of_their_file() -> None:
    lines = [line for line in (ROOT / "results/published/anchors.csv").read_text().splitlines() if line[0] != "#"]
    values = {line["value"] for line in csv.DictReader(lines)}
    said = r"(?:square is|images? gives|that point)\s(\d\d\.\d\d) and (\d\d\.\d\d)"
    texts = [(ROOT / name).read_text() for name in ("docs/differences.md", "scripts/anchors.py")]
    found = [set(pair) for text in texts for pair in re.findall(said, text)]
    assert len(found) == 4
    assert all(pair <= values for pair in found)
