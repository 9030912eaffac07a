"""Old import paths. They work up to version `LAST`, with a warning that names the new path.

`import eigencam.forward`, `_target_: eigencam.evaluation.wsol.MaxBoxAcc` in your own YAML and an old entry point
are all resolved by Python's import, so one finder serves them. It is asked last, for names that nothing else
provides. A module under an old name holds the objects of the new one, not copies.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "eigencam"
LAST = "0.2"
"""The last version in which the old paths work."""

MODULES = {
    "methods.perturbation": "methods.scorecam",
    "running.slurm": "running.launcher_callbacks",
    "methods.components": "methods.eigencam_variants",
    "methods.factors": "methods.dff",
    "methods.integrated": "methods.integrated_gradcam",
    "evaluation.boxes": "datasets.boxes",
    "datasets.ig02": "datasets.graz02",
    "evaluation.tuned": "evaluation.localization_tuned",
    "evaluation.wsol": "evaluation.maxboxacc",
    "evaluation.sanity": "evaluation.randomization",
    "build": "store.build",
    "environment": "store.environment",
    "identity": "store.identity",
    "records": "store.records",
    "ablation": "passes.ablation",
    "backward": "passes.backward",
    "forward": "passes.forward",
    "tail": "passes.tail",
    "tape": "passes.tape",
    "caffe": "networks.caffe",
    "networks.lite": "networks.efficientnet_lite",
    "head": "networks.classifier",
    "fitted": "networks.fitted",
    "network": "networks.network",
    "scenes_networks": "networks.scenes",
    "scenes_transformers": "networks.scenes_transformers",
    "variants": "networks.randomized",
    "smooth_masks": "methods.blur",
    "catalogue": "configuring.catalogue",
    "named": "configuring.method_names",
    "faults": "running.faults",
    "loading": "running.loading",
    "loggers": "running.loggers",
    "maps": "running.batch_maps",
    "prepare": "running.prepare",
    "rows": "running.rows",
    "run": "running.run",
    "slurm": "running.launcher_callbacks",
    "sweep": "running.sweep",
    "work": "running.run_state",
    "fit_broadcam": "fitting.broadcam",
    "fit_classifier": "fitting.classifier",
    "fit": "fitting.job",
    "fit_lcam": "fitting.lcam",
    "logistic": "fitting.logistic",
    "fit_pictures": "fitting.training_images",
    "fit_sgd": "fitting.sgd",
    "curves": "reporting.curves",
    "derived": "reporting.derived",
    "draw": "reporting.draw",
    "gallery": "reporting.gallery",
    "evaluation.papers": "reporting.paper_tables",
    "report": "reporting.report",
    "compare": "commands.compare",
    "explain": "commands.explain",
    "cli": "commands.main",
    "score": "commands.score",
    "status": "commands.status",
    "streams": "commands.streams",
    "table": "commands.table",
}
"""New path by old path, both relative to the package."""

NAMES = {
    "compare.Compared": "reporting.comparison.Compared",
    "compare.Place": "reporting.comparison.Setting",
    "evaluation.tables.collect": "reporting.collect.collect",
    "evaluation.tables.long_of": "reporting.collect.long_of",
    "evaluation.tables.read_results": "reporting.collect.read_results",
    "evaluation.tables.selected": "reporting.collect.selected",
    "forward.RESHAPES": "passes.readings.LAYOUTS",
    "identity.checksum": "store.canonical.checksum",
    "maps.BatchProbe": "running.probe.BatchProbe",
    "methods.gradient_weighted.FullGrad": "methods.fullgrad.FullGrad",
    "methods.gradient_weighted.ShapleyCAM": "methods.shapleycam.ShapleyCAM",
    "methods.perturbation.AblationCAM": "methods.ablationcam.AblationCAM",
    "methods.perturbation.Occlusion": "methods.occlusion.Occlusion",
    "methods.perturbation.RISE": "methods.rise.RISE",
    "methods.perturbation.ShapCAM": "methods.shapcam.ShapCAM",
    "network.PACKAGED": "networks.weights.PACKAGED",
    "prepare.asks_network": "evaluation.base.asks_network",
    "prepare.is_joint": "evaluation.base.is_joint",
    "records.write_text": "files.write_text",
}
"""New path by old path, for single objects that are not in the successor of their module."""


OPTIONS = {"method/fam": "fam_reading", "method/vscam": "vscam_reading"}
"""New name by old name of renamed options; the old names no longer work."""


class MovedWarning(DeprecationWarning):
    """An old import path was used."""


def current(name: str) -> str:
    """Return the current dotted name of an object.

    >>> current("eigencam.evaluation.wsol.MaxBoxAcc"), current("my_module.build")
    ('eigencam.evaluation.maxboxacc.MaxBoxAcc', 'my_module.build')
    """
    below = name.removeprefix(f"{PACKAGE}.")
    if below == name:
        return name
    module, _, inner = below.rpartition(".")
    return f"{PACKAGE}.{NAMES.get(below) or '.'.join(filter(None, (MODULES.get(module, module), inner)))}"


def renamed(group: str, name: str) -> str:
    """Return a sentence with the current name of an option; "" if it was not renamed.

    >>> renamed("method", "fam"), renamed("method", "gradcam")
    ('method fam is called fam_reading now', '')
    """
    new = OPTIONS.get(f"{group}/{name}")
    return f"{group} {name} is called {new} now" if new else ""


def attribute(module: str, name: str) -> Any:
    """Return an object that was moved out of `module`; called by the `__getattr__` of that module.

    Raises:
        AttributeError: it has not moved.
    """
    old = f"{module.removeprefix(f'{PACKAGE}.')}.{name}"
    if old not in NAMES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    _warn(f"{PACKAGE}.{old}", f"{PACKAGE}.{NAMES[old]}")
    new, _, inner = NAMES[old].rpartition(".")
    return getattr(importlib.import_module(f"{PACKAGE}.{new}"), inner)


def install() -> None:
    """Make Python's import look up old paths, after everything else."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is {new} now; the old path works up to version {LAST}", MovedWarning, stacklevel=3)


class _Finder(MetaPathFinder):
    """Finds modules under their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of ours that has moved; None for any other module."""
        new = MODULES.get(fullname.removeprefix(f"{PACKAGE}.")) if fullname.startswith(f"{PACKAGE}.") else None
        return ModuleSpec(fullname, _Moved(f"{PACKAGE}.{new}")) if new else None


class _Moved(Loader):
    """Loads a module that forwards the contents of another one."""

    def __init__(self, new: str) -> None:
        self._new = new

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module under the old name."""
        name = module.__name__
        _warn(name, self._new)
        found = importlib.import_module(self._new)
        module.__doc__ = found.__doc__
        module.__dict__["__all__"] = [key for key in vars(found) if not key.startswith("_")]
        module.__dict__["__getattr__"] = lambda key: (
            getattr(found, key) if hasattr(found, key) else attribute(name, key)
        )
