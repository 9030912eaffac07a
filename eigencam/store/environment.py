"""The code, packages and machine of a run. Recorded with every result, but not part of its identity."""

import ctypes
import os
import platform
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors for the next ones, in this process and those forked from it.

    By default a block above a threshold of at most 32 MiB is requested from the system when it is needed and returned
    right afterwards, so its pages are zeroed again for each layer of each batch (`scripts/benchmark_allocator.py`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def environment(device: str) -> dict[str, Any]:
    """Return a JSON-ready description of code, packages and machine."""
    import torch
    from PIL import features

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        **git(),
        "python": platform.python_version(),
        "packages": packages(),
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "command": [*Path(sys.argv[0]).name.split(" "), *sys.argv[1:]],  # with Hydra, argv[0] is `eigencam run`
    }


def processor() -> str:
    """Return the CPU's name if /proc/cpuinfo has it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def git() -> dict[str, Any]:
    """Return commit and dirty flag of the clone that the code runs from; both are None outside a clone."""
    folder = Path(__file__).parent

    def ask(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if ask("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": bool(ask("status", "--porcelain", "-uno"))}


def packages() -> dict[str, str]:
    """Return the versions of all installed packages that this process has imported from, by lower-case name."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    of_module = packages_distributions()
    names = sorted({distribution for module in loaded for distribution in of_module.get(module, ())})
    return {name.lower(): version(name) for name in names}
