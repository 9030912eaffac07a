"""How the papers' tables are printed, and which of our results stand beside them: one YAML per paper.

title:   the paper
address: where the paper, or the table, is
tables:
  - name:        of the table, `table` in published.csv
    title:       what it shows
    dataset:     `dataset` in published.csv
    experiment:  what runs ours: eigencam run experiment=...
    settings:    further arguments of the command, e.g. paths.ilsvrc=FOLDER
    ours:        {dataset, target, part}: our results beside it; `part` only if the dataset has several
    images:      the paper's number of images, or of pairs of image and class; null where it is not known
    metrics:     column: {published: name, evaluator: name, metric: name, among: [methods of ours]}; `among` only
                 where a metric compares methods
    models:      the paper's network: {networks: [options of `model`] or [any], differs: what differs}
    methods:     the paper's method: ours, where the names differ
    training:    if the paper trains its networks: `fit`, the command that trains one, and `methods`: the paper's
                 method: {fitted: its mark in our tables, map: our method, settings: {the paper's network: further
                 arguments of the command}}; for a network that is not listed, no setting is published
    rows:        [[network, method], ...]: rows of the paper that published.csv lacks
    differs:     one sentence for each difference between the protocols
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from eigencam.reporting.published import folder, papers

ANY = "any"
"""Stands for every network of ours, where the paper's number does not depend on the network."""

Key = tuple[str, str, str, str]
"""Our network and method as the tables name them, and their plain names."""


@dataclass(frozen=True, slots=True)
class LayoutColumn:
    """A metric of a published table, and our metric beside it.

    `among`: for a metric that compares methods, our counterparts of the methods that the paper compares.
    """

    published: str
    evaluator: str
    metric: str
    among: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """One published table; the attributes are the keys of the module's docstring, `runs` our experiment's methods."""

    paper: str
    address: str
    name: str
    title: str
    dataset: str
    experiment: str
    ours: Mapping[str, str]
    metrics: Mapping[str, LayoutColumn]
    models: Mapping[str, Mapping[str, Any]]
    settings: tuple[str, ...] = ()
    images: int | None = None
    methods: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that computes our results."""
        return " ".join(["eigencam run", f"experiment={self.experiment}", *self.settings])

    def trained(self, method: str) -> Mapping[str, Any]:
        """The entry of `training` for one of the paper's methods; {} if the paper trains no network for it."""
        return self.training.get("methods", {}).get(method, {})

    def stands_beside(self, model: str, method: str, key: "Key", found: Mapping[str, Mapping[Any, Any]]) -> bool:
        """Whether a line of ours stands beside the paper's network and method."""
        trained = self.trained(method)
        if trained:
            fitted = {line.get("fitted", "") for line in found.values()}
            networks = [network_of(trained["settings"].get(model, ""))]
            return fitted == {trained["fitted"]} and key[2] in networks and key[3] == trained["map"]
        networks = [option.rsplit("/", 1)[-1] for option in self.models.get(model, {"networks": []})["networks"]]
        return (key[2] in networks or networks == [ANY]) and key[3] == self.methods.get(method, method)

    def not_run(self, model: str, method: str) -> list[str]:
        """Why we have no numbers for the paper's network and method."""
        about = self.models.get(model, {"networks": []})
        if trained := self.trained(method):
            if not (settings := trained["settings"].get(model)):
                return ["setting not published"]
            fit = f"{self.training['fit']} {settings}"
            network = " ".join(word for word in fit.split() if word.startswith(("model=", "model.")))
            return [f"not run yet: {fit}; {self.command} {network} method=[{trained['map']}] model.head=FILE"]
        if self.methods.get(method, method) not in self.runs:
            return ["method: none of ours"]
        if not about.get("networks"):
            return []
        model = "" if about["networks"] == [ANY] else f" model={about['networks'][0]}"
        return [f"not run yet: {self.command}{model}"]


def network_of(settings: str) -> str:
    """Return the network that the arguments of a command name; "" if they name none.

    >>> network_of("model=wsol_vgg16 fit.lr=1e-5")
    'wsol_vgg16'
    """
    return next((word.removeprefix("model=") for word in settings.split() if word.startswith("model=")), "")


def layouts(paper: str) -> list[Layout]:
    """The tables of a paper.

    Raises:
        ValueError: there is no such paper.
    """
    if paper not in papers():
        raise ValueError(f"--paper {paper}: not known; there are: {', '.join(papers())}")
    content = OmegaConf.to_container(OmegaConf.create((folder() / f"{paper}.yaml").read_text()))
    assert isinstance(content, dict)  # the file is ours
    made = []
    for node in content["tables"]:
        columns = {
            title: LayoutColumn(**{**column, "among": tuple(column.get("among", ()))})
            for title, column in node["metrics"].items()
        }
        tuples = {key: tuple(node.get(key, ())) for key in ("settings", "differs")}
        rows = tuple((model, method) for model, method in node.get("rows", ()))
        runs = _methods_of(node["experiment"])
        about = {"paper": paper, "address": content["address"], "metrics": columns, "rows": rows, "runs": runs}
        made.append(Layout(**{**node, **tuples, **about}))
    return made


def _methods_of(experiment: str) -> tuple[str, ...]:
    """The methods that an experiment of ours runs."""
    content = OmegaConf.create((files("eigencam.configs") / "experiment" / f"{experiment}.yaml").read_text())
    return tuple(next(part["override /method"] for part in content.defaults if "override /method" in part))
