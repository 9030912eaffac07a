"""`eigencam bundle RESULT …`: results in one file, which another group can verify and merge with its own.

Examples:
    eigencam bundle results/runs/ilsvrc-resnet50-eigencam-* --out ours.zip      here
    eigencam bundle results/runs --maps --out maps.zip paths.ilsvrc=DIR         with the maps, for method=[files]
    eigencam bundle results/runs                                                every complete one, into bundle.zip
    eigencam verify ours.zip                                                    there
    eigencam merge ours.zip results/runs --into results/both
    eigencam table --results results/both                                       a footnote: claimed by others
    eigencam reproduce results/both paths.ilsvrc=DIR                            reproduced there: no longer claimed
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from eigencam.commands.path_arguments import settings_and_paths
from eigencam.configuring.results_options import add_trust, trust_of
from eigencam.evaluation.escaping import one_line
from eigencam.store.bundle import SUFFIX, is_bundle, pack, unpacked
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.schema import CONFIG
from eigencam.store.trust import Trust, keep_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam bundle`."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="RESULT or key=value",
        help="results, folders of results; with --maps paths.NAME=DIR",
    )
    parser.add_argument(
        "--maps", action="store_true", help="include the maps, computed again: half precision where that is exact"
    )
    add_trust(parser)
    parser.add_argument("--out", type=Path, default=Path("bundle.zip"), metavar="FILE", help="the file to write")


def main(args: argparse.Namespace) -> int:
    """Write the bundle; returns 0."""
    from eigencam.reporting.card import card

    if args.out.suffix != SUFFIX:
        raise ValueError(f"--out {args.out}: allowed is a name that ends in {SUFFIX}")
    settings, paths = settings_and_paths(args.inputs)
    found = list(_complete(list(paths.values())))
    cards = {stored.folder.name: "\n".join(map(one_line, card(stored))) + "\n" for stored in found}
    with tempfile.TemporaryDirectory(prefix="eigencam-maps-") as made:
        maps = {
            stored.folder.name: _maps(stored, Path(made), settings, trust_of(args)) for stored in found if args.maps
        }
        files = pack([stored.folder for stored in found], args.out, cards, maps)
    size = args.out.stat().st_size
    print(one_line(f"{args.out}: {len(found)} results, {files} files, {size / 1e6:.2f} MB"))
    return 0


def _maps(stored: Stored, root: Path, settings: Sequence[str], trust: Trust) -> Path:
    """Compute the maps of a result again; return the folder that they are in."""
    from omegaconf import DictConfig, OmegaConf

    from eigencam.configuring.stored_config import changed, check_paths, machine_paths
    from eigencam.running.kept_maps import keep_maps

    if stored.summary is None or stored.summary.unsupported:
        raise ValueError(f"{stored.folder}: no maps, the method could not run")
    where, folder = str(stored.folder / CONFIG), root / stored.folder.name
    config: Any = OmegaConf.to_container(changed(OmegaConf.create(trust.confined(stored.config(), where)), settings))
    check_paths(config, [*machine_paths().values(), *(item.partition("=")[2] for item in settings), root], where)
    config["paths"] = {**config["paths"], "results": str(root / "runs")}
    method, evaluator = stored.names[2:]
    config |= {"method": {method: config["method"][method]}, "evaluator": {evaluator: config["evaluator"][evaluator]}}
    kept = keep_maps(DictConfig({**config, "shard": "1/1", "on_unsupported": "fail"}), stored.rows(), folder)
    print(one_line(f"{stored.folder.name}: {kept.maps} maps, {kept.single} of them in single precision"))
    return folder


def _complete(roots: Sequence[Path]) -> Iterator[Stored]:
    """The complete results in some folders; unfinished results of a folder are left out, with a printed line."""
    count = 0
    for root in roots:
        keep_out(root)
        alone = root in (folders := results_in(root))
        for stored in filter(None, (read(folder, hashed=True) for folder in folders)):
            if stored.state in ("damaged", "refused", "old") or (alone and stored.summary is None):
                raise ValueError("\n".join([f"{stored.folder}: {stored.state}", *stored.faults]))
            if stored.summary is None:
                print(one_line(f"left out: {stored.folder}: {stored.state}"))
                continue
            count += 1
            yield stored
    if not count:
        raise FileNotFoundError(f"{', '.join(map(str, roots))}: no complete results there; `eigencam run` makes them")


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[tuple[list[Path], dict[str, str]]]:
    """Open folders as they are, and bundles as the folders that they are unpacked to.

    Yields:
        The folders; and the name of each bundle by its folder, for printed lines.
    """
    with ExitStack() as stack:
        roots, names = list[Path](), dict[str, str]()
        for path in paths:
            root = stack.enter_context(unpacked(path)) if is_bundle(path) else path
            roots.append(root)
            if root != path:
                names[str(root)] = str(path)
        yield roots, names


def named(line: str, names: dict[str, str]) -> str:
    """Return a line with the bundle's name in place of the folder that it was unpacked to."""
    for root, name in names.items():
        line = line.replace(root, name)
    return line
