"""Loggers write finished results to TensorBoard, MLflow or a class of your own. None by default.

    eigencam run logger=tensorboard
    eigencam run logger=[tensorboard,mlflow] logger.mlflow.uri=http://server:5000

A logger is called once for each result, by the process that completes it. It changes no number and is not part of a
result's identity. If it fails, the failure is reported and the run continues. A logger of your own is a class with
`log`, and a YAML in the form of `configs/logger/` in `--config-dir`.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Protocol

from eigencam.datasets.reading import expand
from eigencam.evaluation.base import Metric
from eigencam.evaluation.escaping import markdown
from eigencam.store.canonical import checksum
from eigencam.store.records import Result


class Logger(Protocol):
    """What `logger.NAME` builds."""

    def log(self, identity: str, names: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Log one finished result.

        Args:
            identity: hash of the result's identity, the end of its folder's name.
            names: names of its dataset, network, method and evaluator.
            metrics: values by name, in the unit of the tables; undefined ones are left out.
        """
        ...


class TensorBoard:
    """Event files below a folder, with one run per result and one scalar `evaluator/metric` per metric."""

    def __init__(self, folder: str) -> None:
        _need("tensorboard")
        self.folder = expand(folder)

    def log(self, identity: str, names: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """See `Logger.log`."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder / "-".join([*names.values(), identity]))) as writer:
            for name, value in metrics.items():
                writer.add_scalar(f"{names['evaluator']}/{name}", value)
            lines = [f"{key}: {markdown(value)}  " for key, value in {**names, "identity": identity}.items()]
            writer.add_text("result", "\n".join(lines))


class MLflow:
    """One run per result, with its names as tags.

    Args:
        experiment: name of the experiment; created if it does not exist.
        uri: URI of the tracking server or store; None: MLflow's own rules ($MLFLOW_TRACKING_URI).
    """

    def __init__(self, experiment: str = "eigencam", uri: str | None = None) -> None:
        _need("mlflow")
        self.experiment, self.uri = experiment, uri

    def log(self, identity: str, names: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """See `Logger.log`."""
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric as Number  # pyright: ignore[reportMissingImports]

        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.experiment)
        title = "-".join([*names.values(), identity])
        run = client.create_run(experiment, run_name=title, tags={**names, "identity": identity}).info.run_id
        now = int(1000 * time.time())
        # MLflow allows only these characters in names.
        numbers = [Number(re.sub(r"[^\w./: -]", "_", name), value, now, 0) for name, value in metrics.items()]
        client.log_batch(run, metrics=numbers)
        client.set_terminated(run)


def tell(
    loggers: Mapping[str, Logger], result: Result, metrics: Iterable[Metric], say: Callable[[str], None] = print
) -> None:
    """Pass a finished result to every logger; the result is on disk, and no failure here affects it."""
    names: dict[str, str] = dict(zip(("dataset", "network", "method", "evaluator"), result.names, strict=True))
    defined = {metric.name: metric.value for metric in metrics if metric.value == metric.value}
    for name, logger in loggers.items():
        try:
            logger.log(checksum(result.identity), names, defined)
        except Exception as error:  # servers, disks, other people's code
            say(f"  logger {name} failed ({type(error).__name__}: {error}); the result is in {result.folder}")


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"it needs {package}: pip install 'eigencam-bench[loggers]'")
