"""The console command `eigencam`. Heavy modules are imported only by the subcommands that need them."""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from eigencam.commands.streams import outlive_readers
from eigencam.configuring.valid_names import valid_names
from eigencam.files import one_line
from eigencam.moved import MovedWarning

SUBCOMMANDS = {
    "run": "compute results: methods x evaluators over a dataset with a network (Hydra; -m for sweeps)",
    "fit": "train L-CAM, BroadCAM, a classifier of other classes, or a network for localization (Hydra)",
    "score": "score boxes or maps made by any other program",
    "table": "tables of the results: terminal, CSV, Markdown, LaTeX",
    "published": "the papers' numbers, the cells that could not be read in any source, and your readings of them",
    "compare": "methods compared on the same images: differences, tests, ranks",
    "report": "results as one page of HTML: tables, curves, images; figures for papers",
    "status": "which results are done, partly done, failed or missing",
    "merge": "results of several folders into one: shards of machines without a common disk",
    "bundle": "results in one file, which others can verify, merge and reproduce",
    "summarize": "recompute metrics from stored rows, without data or network",
    "verify": "check stored results: seals, n, metrics, versions, images",
    "card": "where a result comes from, on one page",
    "reproduce": "run the commands in a table's header, and compare every cell",
    "prune": "list, and remove, results that are superseded, damaged or left over",
    "check": "a dataset: its first images with their truth, counts, and invalid truths",
    "networks": "networks by name, and the description of their weights",
    "layers": "a network's layers: which are maps, how they are read, and which one is the default",
    "methods": "all methods, and what each needs",
    "explain": "draw methods' maps over images",
    "completion": "the script by which a shell completes commands, options and settings",
}

HYDRA = {"run": "running.run", "fit": "fitting.job"}
"""For each subcommand that Hydra configures, the module that has the function of its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 fine, 1 failed, 2 wrong input, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    outlive_readers()
    warnings.simplefilter("once", MovedWarning)  # DeprecationWarnings are hidden by default
    sys.path.append(str(Path.cwd()))  # the user's networks and methods, by dotted name
    chosen = argv[0] if argv else ""
    if chosen == "run" and "--retry-failed" in argv:
        return _retry(argv[1:])
    if chosen in HYDRA:
        return _hydra(chosen, argv[1:])
    if chosen not in SUBCOMMANDS:
        return _top_level(argv)
    module = importlib.import_module(f"eigencam.commands.{chosen}")
    parser = argparse.ArgumentParser(
        prog=f"eigencam {chosen}",
        description=SUBCOMMANDS[chosen],
        epilog=examples(module.__doc__ or ""),
        formatter_class=_Help,
    )
    module.add_arguments(parser)
    # A file whose name begins with a dash is not an option.
    args = parser.parse_intermixed_args([f"./{a}" if a[:1] == "-" and Path(a).is_file() else a for a in argv[1:]])
    try:
        from eigencam.datasets.reading import expand
        from eigencam.store.trust import keep_out

        for name, value in vars(args).items():
            if isinstance(value, Path):
                setattr(args, name, expand(value))
            elif isinstance(value, list):
                setattr(args, name, [expand(item) if isinstance(item, Path) else item for item in value])
        results = getattr(args, "results", [])
        for folder in results if isinstance(results, list) else [results]:
            keep_out(folder)
        _refuse_inside_results(args)
        return module.main(args)
    except Exception as error:
        # Hydra's errors, recognised without importing Hydra; some of them are OSErrors.
        if type(error).__module__.split(".")[0] in ("hydra", "omegaconf", "yaml"):
            from eigencam.configuring.overrides import hint

            given = _overrides(args)
            if hinted := hint(given):
                return _refuse(ValueError(hinted))
            return _refuse(error, valid_names(str(error), overrides=given))
        if isinstance(error, ValueError | OSError):
            return _refuse(error)
        raise


WRITTEN = ("out", "into", "figure", "figures", "template")
"""Options that name a file or folder to write."""


def _refuse_inside_results(args: argparse.Namespace) -> None:
    """Raise ValueError if the command would write into a stored result."""
    for name in WRITTEN:
        if isinstance(path := getattr(args, name, None), Path):
            from eigencam.store.reader import refuse_inside

            refuse_inside(path, f"--{name}")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults except None, False and empty ones, and keeps the layout of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, (), []) else action.help


def examples(docstring: str) -> str:
    """Return the commands of a module's docstring as the end of its help."""
    lines = [line for line in docstring.splitlines() if line.startswith("    eigencam ")]
    return "\n".join(["examples:", *(line[2:] for line in lines)]) if lines else ""


def _top_level(argv: list[str]) -> int:
    """`eigencam --help`, `eigencam --version` and unknown subcommands."""
    parser = argparse.ArgumentParser(
        prog="eigencam",
        description="Benchmark and reproducibility harness for class-activation maps.",
        epilog="eigencam SUBCOMMAND --help has details; run --help lists networks, datasets, methods, evaluators.",
    )
    parser.add_argument("--version", action="version", version=f"eigencam {version('eigencam-bench')}")
    subparsers = parser.add_subparsers(metavar="SUBCOMMAND", required=True)
    for name, text in SUBCOMMANDS.items():
        subparsers.add_parser(name, help=text, add_help=False)
    parser.parse_args(argv)
    return 0


def _task(chosen: str, faults: list[Exception]) -> Callable[[], None]:
    """Return what Hydra runs once, or per job. Faults of a single run bypass Hydra, which would print overrides."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from eigencam.running.sweep import free_gpu
    from eigencam.store.reader import refuse_inside
    from eigencam.store.trust import keep_out

    @hydra.main(version_base="1.3", config_path="pkg://eigencam.configs", config_name=chosen)
    def task(config: DictConfig) -> None:
        outlive_readers()  # in a launcher's process, too
        keep_out(results := Path(config.paths.results))
        command = getattr(importlib.import_module(f"eigencam.{HYDRA[chosen]}"), chosen)
        try:
            refuse_inside(results, "paths.results")
            with free_gpu() if config.device == "free" else nullcontext(config.device) as device:
                config.device = device
                command(config)
        except (ValueError, OSError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra continues, and reports the first failure only
                _refuse(error)
                error.told = True  # type: ignore[union-attr]
                raise
            faults.append(error)

    return task


def _hydra(chosen: str, argv: list[str]) -> int:
    """`eigencam run` and `eigencam fit` use Hydra's overrides, multirun and --help."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us; we print them in one piece
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from eigencam.configuring.compose import register
    from eigencam.configuring.method_names import quoted
    from eigencam.configuring.overrides import accepted, hint, options_first
    from eigencam.running.sweep import gpus

    OmegaConf.register_new_resolver("eigencam.gpus", gpus, replace=True)
    register()
    faults: list[Exception] = []
    try:
        argv = accepted(argv)
        sys.argv = [f"eigencam {chosen}", *options_first(quoted(argv))]
        _task(chosen, faults)()
        if faults:
            return _refuse(faults[0])
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        if hinted := hint(argv):
            return _refuse(ValueError(hinted))
        return _refuse(error, valid_names(str(error), chosen, [item for item in argv if "=" in item]))
    except KeyboardInterrupt:
        print("\neigencam: interrupted; the same command resumes from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        return _status(error) if hasattr(error, "told") else _refuse(error)
    except Exception as error:  # submitit's, recognised without importing it: it is optional
        if type(error).__name__ != "UncompletedJobError":
            raise
        reason = " ".join(str(error).splitlines()[:2])  # the rest is the job's whole output
        print(
            f"eigencam: {reason}\n  The array's other jobs continue; then run the command again for what is missing",
            file=sys.stderr,
        )
        return 1
    return 0


def _retry(argv: list[str]) -> int:
    """`eigencam run --retry-failed`: repeat the failed jobs of a folder of results."""
    from eigencam.configuring.results_options import add_trust, default_results, trust_of
    from eigencam.running.run import run
    from eigencam.running.sweep import retry
    from eigencam.store.trust import keep_out

    parser = argparse.ArgumentParser(prog="eigencam run", description="Run the failed jobs of a folder again.")
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    parser.add_argument("settings", nargs="*", metavar="paths.NAME=FOLDER", help="where data and weights are now")
    add_trust(parser)
    args = parser.parse_intermixed_args(argv)
    keep_out(args.results)
    if odd := [setting for setting in args.settings if not setting.startswith("paths.") or "=" not in setting]:
        return _refuse(ValueError(f"{odd[0]}: with --retry-failed only paths.NAME=FOLDER is allowed"))
    return retry(args.results, run, _refuse, trust_of(args), args.settings)


def _overrides(args: argparse.Namespace) -> list[str]:
    """The group options that a command's arguments choose, and its settings."""
    named = {group: getattr(args, group, None) for group in ("model", "dataset")}
    chosen = [
        f"{group}={name}" for group, name in named.items() if isinstance(name, str) and ("." not in name or "/" in name)
    ]
    return [*chosen, *(item for item in getattr(args, "inputs", ()) if "=" in item)]


def _refuse(error: Exception, hint: str = "") -> int:
    if os.environ.get("EIGENCAM_DEBUG"):
        raise error
    text = one_line(error) if isinstance(error, OSError) and error.errno else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if hint:
        lines = [lines[0], hint]
    print("eigencam: " + "\n  ".join(lines or [type(error).__name__]), file=sys.stderr)
    return _status(error)


def _status(error: Exception) -> int:
    """1 if the machine (a full disk, no permission) or a part of a run failed, 2 if the input was wrong."""
    machine = isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError)
    return getattr(error, "status", 1 if machine else 2)
