"""The jobs of a sweep: those that a command's overrides stand for, and the failed ones for a retry."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from eigencam.configuring.method_names import quoted
from eigencam.configuring.stored_config import changed, check_paths, machine_paths
from eigencam.store.locks import HeldError, take
from eigencam.store.reader import Stored, read_all
from eigencam.store.schema import CONFIG
from eigencam.store.seal import DamagedError, read_yaml
from eigencam.store.trust import Trust

PLACES = ("launcher", "shard", "device", "own_folder")
"""Keys that say where and how a job runs, not what it computes."""


def jobs(overrides: Sequence[str], config: str = "run") -> Iterator[tuple[str, DictConfig]]:
    """Yield every job of `eigencam run OVERRIDES`, including a sweep that the experiment declares.

    Args:
        overrides: as on the command line; the keys in `PLACES` are ignored, since they change no result.
        config: name of the primary config.

    Yields:
        The job's own overrides as text, and its composed config.

    Raises:
        HydraException: an unknown group, option or key.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # the class of `hydra.sweeper`
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from eigencam.configuring.compose import compose

    kept = [item for item in quoted(overrides) if item.split("=")[0].lstrip("+~") not in PLACES and item != "-m"]
    parser = OverridesParser.create()
    fixed = [o.input_line for o in parser.parse_overrides(list(kept)) if not o.is_sweep_override()]
    declared = compose(config, [str(o) for o in fixed], with_hydra=True).hydra.sweeper.params or {}
    everything = parser.parse_overrides([*(f"{key}={value}" for key, value in declared.items()), *kept])
    for chosen in BasicSweeper.split_arguments(everything, None)[0]:
        yield " ".join(chosen), compose(config, chosen)


def failed(root: Path) -> list[Stored]:
    """Return the results below `root` that failed, one for each config."""
    found: dict[str, Stored] = {}
    for stored in read_all(root):
        if stored.summary is None and stored.errors():
            try:
                config = read_yaml(stored.folder / CONFIG)
            except (DamagedError, FileNotFoundError):
                config = stored.folder.name  # makes it a job of its own, whose fault is reported
            found.setdefault(config, stored)
    return list(found.values())


def retry(
    root: Path,
    run: Callable[[DictConfig], Any],
    refuse: Callable[[Exception], int],
    trust: Trust,
    settings: Sequence[str] = (),
) -> int:
    """Run the failed jobs again, one after another; one that fails again does not stop the others.

    A stored config is data: it is run only if everything that it names is trusted and all its paths are below folders
    of this command line or this machine's environment. Its job writes only below `root`, and calls no loggers.

    Args:
        root: folder of results.
        run: function that runs a config.
        refuse: function that prints why a job was refused; returns the exit status.
        trust: what may be built.
        settings: `paths.NAME=FOLDER`: where data and weights are now.

    Returns:
        The exit status: 0 if no job failed again, 2 if the folder does not exist.
    """
    if not root.is_dir():
        return refuse(FileNotFoundError(f"{root}: no such folder; `eigencam run` makes it"))
    todo = failed(root)
    print(f"{len(todo)} failed jobs in {root}")
    status = 0
    given = [*machine_paths().values(), *(setting.partition("=")[2] for setting in settings), root] if todo else []
    for stored in todo:
        try:
            where = str(stored.folder / CONFIG)
            config = changed(OmegaConf.create(trust.confined(stored.config(), where)), settings)
            content: Any = OmegaConf.to_container(config)
            check_paths(content, given, where)
            paths = content.get("paths")
            content["paths"] = {**(paths if isinstance(paths, dict) else {}), "results": str(root)}
            run(DictConfig(content))
        except Exception as error:
            status = refuse(error)
    return status


def gpus() -> int:
    """Number of CUDA devices of this machine; 1 if there are none."""
    import torch

    return max(1, torch.cuda.device_count())


@contextmanager
def free_gpu() -> Iterator[str]:
    """Yield the name of a CUDA device that, during the block, no other job on this machine holds; `cpu` without CUDA.

    A job takes the lock of the first free device, and waits if all are taken.
    """
    import tempfile
    import time

    import torch

    if not torch.cuda.is_available():
        yield "cpu"
        return
    folder = Path(tempfile.gettempdir())
    files = {
        f"cuda:{k}": folder / f"eigencam-{torch.cuda.get_device_properties(k).uuid}.lock"
        for k in range(torch.cuda.device_count())
    }
    while True:
        for device, file in files.items():
            try:
                lock = take(file, for_everybody=True)
            except HeldError:
                continue
            with lock:
                yield device
            return
        time.sleep(1.0)
