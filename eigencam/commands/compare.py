"""`eigencam compare`: methods compared on the same images, with tests of whether a difference is more than chance.

    eigencam compare eigencam gradcam my_method.py --dataset scenes dataset.count=40
    eigencam compare eigencam gradcam my_module.my_method --dataset scenes --model scenes_resnet,scenes_vgg

Missing results are computed first, exactly as `eigencam run` would. The comparison uses only the rows of results.
The first method is the reference. For each (dataset, network, evaluator), two methods are compared on the images for
which both have a row (`eigencam.evaluation.paired`). The p-values are corrected by Holm over the whole table. The
methods are ranked over the (dataset, network) pairs in which all have a value, over equally many images
(`eigencam.evaluation.ranks`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eigencam.configuring import method_names
from eigencam.configuring.results_options import default_results
from eigencam.configuring.stored_config import made_by
from eigencam.evaluation import ranks
from eigencam.evaluation.escaping import file_name, one_line
from eigencam.evaluation.tables import FORMATS, render
from eigencam.files import write_text
from eigencam.reporting.comparison import DIGITS, compare, rankings
from eigencam.reporting.comparison_tables import as_json, placing_tables, rank_table, table
from eigencam.reporting.table_files import write
from eigencam.store.reader import as_lines, read
from eigencam.store.trust import Trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam compare`."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="METHOD|key=value",
        help="methods, the reference first: an option of `method`, a dotted name, a .py or .yaml file, a folder of "
        "maps, a file of boxes; settings as for `eigencam run` (dataset.count=40)",
    )
    add("--dataset", default="scenes", metavar="A,B", help="options of the `dataset` group")
    add("--model", default="scenes_resnet", metavar="A,B", help="options of `model`, timm/NAME, my_module.build")
    add("--evaluator", default="localization,segmentation", metavar="A,B", help="options of the `evaluator` group")
    add("--metrics", default="", metavar="A,B", help="only these, or `all`; by default the evaluators' headlines")
    add("--all-pairs", action="store_true", help="compare every pair of methods, not only with the first")
    add("--no-run", action="store_true", help="compute nothing; missing results are an error")
    add("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    add("--config-dir", type=Path, metavar="DIR", help="your own configs, as for `eigencam run`")
    add("--format", choices=(*FORMATS, "json"), default="terminal", help="format of the printed tables")
    add("--out", type=Path, metavar="DIR", help="also write compare.csv, .md, .tex, .html, .json and figures of ranks")


def main(args: argparse.Namespace) -> int:
    """Run what is missing, compare and print. Return 1 if some results failed, which are left out; else 0."""
    methods = [item for item in args.inputs if "=" not in item]
    settings = [item for item in args.inputs if "=" in item]
    options, nodes, order = method_names.split(methods)
    if len(order) < 2:
        raise ValueError(f"compare {' '.join(methods)}: two methods or more are needed, the reference first")
    metrics = [m for m in args.metrics.split(",") if m]
    folders, trust, failed = _folders(args, options, nodes, settings)
    lines, values, notes = compare(folders, order, metrics, all_pairs=args.all_pairs, trust=trust)
    notes += failed
    found = rankings(values, order)
    placed = placing_tables(values, order) if len(order) > 2 else []
    made = [table(lines, notes, DIGITS), *placed, *([rank_table(found)] if found else [])]
    if args.format == "json":
        print(as_json(lines, found, notes, values))
    else:
        print("\n".join(render(item, args.format) for item in made))
    if args.out:
        written = write(args.out, "compare", made, ["printed by: eigencam compare"])
        write_text(args.out / "compare.json", as_json(lines, found, notes, values) + "\n")
        written.append(args.out / "compare.json")
        for ranking in found:
            if len(ranking.methods) > 2 and not np.isnan(ranking.critical):
                stem = file_name("ranks", *ranking.metric.split(" "))
                written += [ranks.draw(ranking, args.out / f"{stem}.{kind}") for kind in ("svg", "pdf", "png")]
        print("written:", *written)
    return int(bool(failed))


def _computed(config: Any, *, compute: bool) -> tuple[list[Path], list[str]]:
    """Return a config's result folders, and what failed. FileNotFoundError if one is missing and nothing failed."""
    from eigencam.running.faults import PartlyFailedError
    from eigencam.running.prepare import prepare
    from eigencam.running.run import run

    faults: list[str] = []
    try:
        job = run(config, say=lambda _line: None) if compute else prepare(config)
    except PartlyFailedError as error:
        faults = [line for line in str(error).splitlines()[1:] if line]
        print("\n".join(map(one_line, faults)), file=sys.stderr)
        job = prepare(config)
    missing = [r.folder for r in job.results.values() if r.summary is None]
    if missing and not faults:
        damaged = as_lines(stored for folder in missing if (stored := read(folder, hashed=True)))
        names = ", ".join(folder.name for folder in missing)
        lines = [f"missing: {names}; without --no-run they are computed", *damaged]
        raise FileNotFoundError("\n".join(lines))
    return [result.folder for result in job.results.values() if result.folder not in missing], faults


def _folders(
    args: argparse.Namespace, options: Sequence[str], nodes: method_names.Nodes, settings: Sequence[str]
) -> tuple[list[Path], Trust, list[str]]:
    """Compute missing results unless `--no-run`; return the result folders, what is trusted, and what failed."""
    from omegaconf import OmegaConf

    from eigencam.configuring.compose import compose

    overrides = [f"method=[{','.join(options)}]", f"evaluator=[{args.evaluator}]", f"paths.results={args.results}"]
    if args.config_dir:
        overrides.append(f"hydra.searchpath=[file://{args.config_dir.resolve()}]")
    configs = []
    for model in args.model.split(","):
        for dataset in args.dataset.split(","):
            chosen = [*method_names.model_overrides(model), f"dataset={dataset}", "on_unsupported=skip"]
            every = method_names.quoted([*chosen, *overrides, *settings])
            configs.append(method_names.with_methods(compose("run", every), nodes))
    found: list[Path] = []
    failed: list[str] = []
    for config in configs:
        finished = made_by(config, args.results) if args.no_run else None
        if finished is not None and len(finished) == len(config.method) * len(config.evaluator):
            found += [stored.folder for stored in finished.values()]
            continue
        folders, faults = _computed(config, compute=not args.no_run)
        found += folders
        failed += [f"failed, left out: {line}" for line in faults]
    return found, Trust.of(args.config_dir, configs=[OmegaConf.to_container(config) for config in configs]), failed
