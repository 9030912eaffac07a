"""Which metric to trust: does it rank methods in the same order as the truth, where the correct map is known?

    python scripts/judge_metrics.py --runs FOLDER --out results/metrics_judged.csv --page docs/metrics.md

Settings with a known correct map, from exact to approximate (docs/protocols.md, Known evidence):

    planted   the class depends on the pixels of one mark, by construction
    wired     each output sees one cell of a mosaic (DiFull), two networks
    heads     each output reads the last features of one cell of a mosaic (DiPart), two networks, maps of these features
    mosaic    the class is in one cell of a mosaic (GridPG)
    objects   the object's visible pixels, on scenes, two networks: the object's location, not the network's evidence

Some methods occur a second time with their maps mirrored left to right: as sparse and as stable, but wrong. The truth
of a method, on the same images, is the fraction of its map's positive mass in the correct region
(`mass_inside`). For each metric the table has Kendall's tau-b between the methods' values and the truth, averaged over
the networks, with a 95 % interval (bootstrap over images, the same resamples for truth and metric). Two values tie
within a thousandth of the methods' range. Stability is tau between a metric's own rankings: with other seeds, with
other fillings of removed pixels (mean over planted and scenes), and on halves of the images. The cost is the number of
images that pass through the network: for each map, and once for all methods. `mirror` is how often a map is preferred
to its mirror image. FOLDER keeps the runs; the same command resumes them.
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import open_dict
from torch import nn

from eigencam.configuring.compose import compose
from eigencam.evaluation.base import Metric, Sample, asks_network
from eigencam.evaluation.maps import ScoreMap
from eigencam.files import replacing
from eigencam.methods.gradcam import GradCAM
from eigencam.reporting.collect import complete
from eigencam.running.batch_maps import compute_maps
from eigencam.running.prepare import prepare
from eigencam.running.probe import BatchProbe
from eigencam.running.run import run
from eigencam.store.environment import git

sys.path.insert(0, str(Path(__file__).parent))

from metrics_page import page, verdict
from rank_agreement import TIE, Floats, halves, mean_defined, resampled, tau, values_of

METHODS = "eigencam,eigengradcam,gradcam,gradcampp,hirescam,layercam,fullgrad,gradient,guided_backprop,lrp,deeplift"
METHODS += ",center_gaussian,random"
AT_INPUT = {"fullgrad", "gradient", "guided_backprop", "lrp", "deeplift"}
"""Methods whose maps are at the input. They are left out of `heads`: a cell's features see pixels beyond its border."""
TWIN = "mirrored_"
MIRRORED = "gradcam,layercam,guided_backprop,lrp"


@dataclass(frozen=True, slots=True)
class Setting:
    """A network and images for which the correct map is known.

    Attributes:
        name: of its folder.
        truth: the column that it belongs to.
        evaluator: whose `mass_inside` is the truth.
        overrides: of `eigencam run`.
        part: number of images as a fraction of `--images`.
        varied: whether seeds and fillings are varied in it.
        at_layer: whether only methods whose maps are of the target layer are ranked.
    """

    name: str
    truth: str
    evaluator: str
    overrides: tuple[str, ...]
    part: float = 1.0
    varied: bool = False
    at_layer: bool = False


MOSAIC = "model.preprocess.size=224"
SETTINGS = (
    Setting("planted", "planted", "evidence", ("model=planted", "dataset=planted"), 2.0, varied=True),
    *(
        Setting(
            f"wired_{kind}",
            "wired",
            "grid_pointing",
            (f"model=scenes_{kind}_cells", "dataset=scenes_grid_cells"),
            0.375,
        )
        for kind in ("resnet", "vgg")
    ),
    *(
        Setting(
            f"heads_{kind}",
            "heads",
            "grid_pointing",
            (
                f"model=scenes_{kind}_cells",
                "model.args.partial=true",
                f"model.name=scenes_{kind}_heads",
                "dataset=scenes_grid_cells",
            ),
            0.375,
            at_layer=True,
        )
        for kind in ("resnet", "vgg")
    ),
    Setting("mosaic", "mosaic", "grid_pointing", ("model=scenes_resnet", "dataset=scenes_grid", MOSAIC), 0.375),
    Setting("objects_resnet", "objects", "evidence", ("model=scenes_resnet", "dataset=scenes"), varied=True),
    Setting("objects_vgg", "objects", "evidence", ("model=scenes_vgg", "dataset=scenes")),
)
TRUTHS = ("planted", "wired", "heads", "mosaic", "objects")


@dataclass(frozen=True, slots=True)
class Judged:
    """An evaluator whose metrics are judged.

    Attributes:
        option: of the `evaluator` group.
        metrics: names.
        needs: what it needs besides the map: `network`, `boxes` or nothing.
        few: parameters that replace the packaged ones.
        seeds: parameters of another random draw.
        fillings: parameters of other fillings.
    """

    option: str
    metrics: tuple[str, ...]
    needs: str
    few: Mapping[str, Any] | None = None
    seeds: Sequence[Mapping[str, Any]] = ()
    fillings: Sequence[Mapping[str, Any]] = ()

    def variants(self) -> dict[str, Mapping[str, Any]]:
        """Name and parameters of the additional runs."""
        seeds = {f"{self.option}_seed{k}": given for k, given in enumerate(self.seeds)}
        return seeds | {f"{self.option}_filling{k}": given for k, given in enumerate(self.fillings)}


OTHERS = ({"fill": "mean"}, {"fill": "blur"})
JUDGED = (
    Judged("infidelity", ("infidelity_share", "infidelity"), "network", fillings=OTHERS),
    Judged("insertion_deletion", ("insertion_auc", "deletion_auc"), "network", {"steps": 14}),
    Judged("average_drop", ("drop_100", "increase_100", "drop_50", "drop_15"), "network", fillings=OTHERS),
    Judged("road", ("road",), "network"),
    Judged("adcc", ("adcc", "coherency", "complexity"), "network"),
    Judged("max_sensitivity", ("max_sensitivity", "mean_sensitivity"), "network", {"samples": 4}, ({"seed": 1},)),
    Judged("randomization", ("rank_mean",), "network", {"stages": 3}, ({"seed": 1},)),
    Judged("sparseness", ("gini", "evenness"), ""),
    Judged("localization", ("gt_known_error", "mean_iou"), "boxes"),
    Judged("pointing", ("pointing_hits",), "boxes"),
    Judged("energy", ("energy_inside",), "boxes"),
    Judged(
        "part_scores", ("single_deletion", "completeness", "distractibility", "target_sensitivity"), "network, boxes"
    ),
)


# -------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of a setting's runs: a metric by evaluator, metric and method, of n images."""

    setting: Setting
    n: int
    methods: tuple[str, ...]
    metrics: Mapping[tuple[str, str, str], Metric]

    def matrix(self, evaluator: str, name: str, weights: Floats) -> Floats | None:
        """(R, M): the values, signed so that higher is better; None if there are none."""
        found = [self.metrics.get((evaluator, name, method)) for method in self.methods]
        if not all(metric and metric.sample for metric in found):
            return None
        known = cast(list[Metric], found)
        sense = -1.0 if known[0].better == "lower" else 1.0
        return sense * np.stack([values_of(cast(Sample, m.sample), weights) for m in known], axis=1)

    def truth(self, weights: Floats) -> Floats:
        """(R, M): the fraction of mass inside."""
        found = self.matrix(self.setting.evaluator, "mass_inside", weights)
        assert found is not None
        return found


def measured(
    setting: Setting, judged: Sequence[Judged], methods: Sequence[str], mirrored: Sequence[str], images: int, root: Path
) -> Measured:
    """Run what is missing, and read all results."""
    if setting.at_layer:
        methods, mirrored = ([name for name in names if name not in AT_INPUT] for names in (methods, mirrored))
    given = {j.option: dict(j.few or {}) for j in judged}
    asked = [setting.evaluator, *given]
    overrides = [
        f"evaluator=[{','.join(asked)}]",
        f"method=[{','.join(methods)}]",
        f"paths.results={root / setting.name}",
    ]
    overrides += [f"dataset.count={max(round(setting.part * images), 2)}", *setting.overrides, "on_unsupported=skip"]
    overrides += [f"evaluator.{o}.{key}={value}" for o, few in given.items() for key, value in few.items()]
    composed = compose("run", [*overrides, "timing=false", "workers=0", "device=cpu"])
    names = [*methods, *(f"{TWIN}{name}" for name in mirrored)]
    with open_dict(composed):
        for name in mirrored:
            composed.method[f"{TWIN}{name}"] = {"_target_": "mirrored.Mirrored", "method": composed.method[name]}
        for j in judged if setting.varied else ():
            for name, more in j.variants().items():
                composed.evaluator[name] = {**composed.evaluator[j.option], **more}
    run(composed)
    metrics, sizes = dict[tuple[str, str, str], Metric](), set[int]()
    for stored in (s for s in complete(root / setting.name)[0] if s.state == "done"):
        _, _, method, evaluator = stored.names
        rows = stored.rows()
        sizes.add(len(rows))
        for metric in stored.evaluator().summary(rows):
            metrics[evaluator, metric.name, method] = metric
    (n,) = sizes
    there = {method for _, _, method in metrics}
    return Measured(setting, n, tuple(name for name in names if name in there), metrics)


def passes(option: str, few: Mapping[str, Any]) -> tuple[float, float]:
    """How many images pass through the network for each map, and once per image for all methods."""
    overrides = [f"evaluator=[{option}]", "dataset.count=2", "device=cpu", "method=[gradcam]", "workers=0"]
    job = prepare(compose("run", [*overrides, *(f"evaluator.{option}.{key}={value}" for key, value in few.items())]))
    evaluator: Any = job.evaluators[option]
    if not asks_network(evaluator):
        return 0.0, 0.0
    network, method, seen = job.network, GradCAM(), list[int]()
    images = torch.zeros(2, 3, *network.preprocess.shape, dtype=torch.uint8)
    images[:, :, 20:60, 30:70] = 200
    found = compute_maps(network, {"m": method}, images, labels=[0, 1])
    maps, truths = found.maps["m"], [job.dataset.truth(k) for k in range(2)]
    score_maps = [ScoreMap(m, truth.size) for m, truth in zip(maps, truths, strict=True)]

    def count(module: nn.Module, inputs: Any) -> None:
        if type(module) is type(network.module):
            seen.append(len(inputs[0]))

    handle, counts = nn.modules.module.register_module_forward_pre_hook(count), list[float]()
    for _ in range(2):
        seen.clear()
        evaluator.rows(maps, BatchProbe(found.forward, method, found.asked, score_maps, truths, (method,)))
        counts.append(sum(seen) / 2)
    handle.remove()
    return counts[1], counts[0] - counts[1]


# ---------------------------------------------------------------------------------------------------------- the table


def against_truth(evaluator: str, name: str, measured_: Sequence[Measured]) -> tuple[float, float, float]:
    """Mean tau over settings with the same truth, and its interval; NaN if none has the metric, or all methods tie."""
    found = list[Floats]()
    for k, m in enumerate(measured_):
        weights = resampled(m.n, k)
        if (values := m.matrix(evaluator, name, weights)) is not None:
            found.append(tau(values, m.truth(weights)))
    mean = mean_defined(found) if found else np.full(1, np.nan)
    if np.isnan(mean[0]):
        return np.nan, np.nan, np.nan
    low, high = np.nanquantile(mean, (0.025, 0.975))
    return float(mean[0]), float(low), float(high)


def between(evaluator: str, name: str, others: Sequence[str], measured_: Sequence[Measured]) -> float:
    """The mean tau between a metric's rankings and those of its variants; NaN without any."""
    found = list[float]()
    for m in measured_ if others else ():
        weights = np.ones((1, m.n))
        base = m.matrix(evaluator, name, weights)
        for other in others:
            if base is not None and (values := m.matrix(other, name, weights)) is not None:
                found.append(float(tau(base, values)[0]))
    return float(mean_defined(found)) if found else np.nan


def of_halves(evaluator: str, name: str, measured_: Sequence[Measured]) -> float:
    """The mean tau between a metric's rankings on two halves of the images."""
    found = list[float]()
    for m in measured_:
        one, other = (m.matrix(evaluator, name, weights) for weights in halves(m.n, 0))
        if one is not None and other is not None:
            found.append(float(mean_defined(list(tau(one, other)))))
    return float(mean_defined(found)) if found else np.nan


def told_apart(evaluator: str, name: str, measured_: Sequence[Measured]) -> float:
    """Percent of the mirrored maps to which the metric prefers the original, ties counting half; NaN without any."""
    found = list[Floats]()
    for m in measured_:
        pairs = [(m.methods.index(o.removeprefix(TWIN)), k) for k, o in enumerate(m.methods) if o.startswith(TWIN)]
        values = m.matrix(evaluator, name, np.ones((1, m.n)))
        if values is not None and pairs:
            steps = np.array([values[0, right] - values[0, wrong] for right, wrong in pairs])
            tie = np.abs(steps) <= TIE * np.ptp(values)
            found.append(np.where(np.isnan(steps), np.nan, np.where(tie, 0.5, steps > 0)))
    return 100 * float(mean_defined(list(np.concatenate(found)))) if found else np.nan


def lines(results: Sequence[Measured], judged: Sequence[Judged]) -> Iterator[dict[str, object]]:
    """The rows of the table."""
    by_truth = {truth: [m for m in results if m.setting.truth == truth] for truth in TRUTHS}
    varied = [m for m in results if m.setting.varied]
    for j in judged:
        each, once = passes(j.option, j.few or {})
        seeds, fillings = ([n for n in j.variants() if f"_{kind}" in n] for kind in ("seed", "filling"))
        for name in j.metrics:
            taus = {truth: against_truth(j.option, name, found) for truth, found in by_truth.items()}
            row: dict[str, object] = {"metric": name, "evaluator": j.option, "needs": j.needs}
            for truth, ends in taus.items():
                row |= {f"tau_{truth}{end}": _number(v) for end, v in zip(("", "_low", "_high"), ends, strict=True)}
            known = [ends[0] for ends in taus.values() if not np.isnan(ends[0])]
            row["tau"] = _number(float(np.mean(known)) if known else np.nan)
            apart = told_apart(j.option, name, results)
            row["mirror"] = "" if np.isnan(apart) else f"{apart:.0f}"
            row["stable_seed"] = _number(between(j.option, name, seeds, varied))
            row["stable_filling"] = _number(between(j.option, name, fillings, varied))
            row["stable_halves"] = _number(of_halves(j.option, name, results))
            yield row | {"passes_each": f"{each:g}", "passes_once": f"{once:g}", "verdict": verdict(taus, apart)}


def truths(results: Sequence[Measured]) -> Iterator[dict[str, object]]:
    """The truth of each method: the fraction of mass inside, in percent."""
    shown = {m.setting.name: (m.methods, 100 * m.truth(np.ones((1, m.n)))[0]) for m in results}
    for method in dict.fromkeys(method for methods, _ in shown.values() for method in methods):
        row: dict[str, object] = {"metric": method, "evaluator": "truth"}
        for name, (methods, found) in shown.items():
            row[name] = f"{found[methods.index(method)]:.1f}" if method in methods else ""
        yield row


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def write_csv(file: Path, rows: Sequence[Mapping[str, object]], command: str, images: Mapping[str, int]) -> None:
    """The table, with its command, the code and the number of images of each setting."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    sizes = ", ".join(f"{name} {n}" for name, n in images.items())
    with replacing(file) as beside, beside.open("w", newline="") as out:
        out.write(f"# command: {command}\n# images: {sizes}; torch {torch.__version__}, code {git()['git_commit']}\n")
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., Any] = parser.add_argument
    add("--runs", type=Path, required=True, help="folder of the runs")
    add("--out", type=Path, required=True, help="the table, CSV")
    add("--page", type=Path, help="the page, Markdown; scripts/metrics_page.py makes it from an existing table")
    add(
        "--images",
        type=int,
        default=32,
        help="number of scenes; twice as many planted images, three eighths as many mosaics",
    )
    add("--methods", default=METHODS, metavar="A,B")
    add("--mirrored", default=MIRRORED, metavar="A,B", help="methods that also occur mirrored")
    add("--settings", default=",".join(s.name for s in SETTINGS), metavar="A,B")
    add("--evaluators", default=",".join(j.option for j in JUDGED), metavar="A,B")
    args = parser.parse_args(arguments)
    judged = [j for j in JUDGED if j.option in args.evaluators.split(",")]
    chosen = [s for s in SETTINGS if s.name in args.settings.split(",")]
    methods, mirrored = (list(filter(None, names.split(","))) for names in (args.methods, args.mirrored))
    results = [measured(s, judged, methods, mirrored, args.images, args.runs) for s in chosen]
    command = shlex.join(["python", "scripts/judge_metrics.py", *(arguments or sys.argv[1:])])
    rows = [*lines(results, judged), *truths(results)]
    write_csv(args.out, rows, command.replace(str(args.runs), "FOLDER"), {m.setting.name: m.n for m in results})
    if args.page:
        with replacing(args.page) as beside:
            beside.write_text(page(args.out))


if __name__ == "__main__":
    main()
