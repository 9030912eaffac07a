"""`launcher=slurm` on clusters without SLURM accounting: the states of jobs from the queue itself."""

import subprocess
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class WatchQueue(Callback):
    """Makes submitit ask `squeue` for the states of jobs where `sacct` does not know them.

    A killed job leaves no output, and without its state submitit would wait for it forever. A job that is no longer
    in the queue has ended; a requeued one is still there.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it submits; `config` is not used."""
        from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

        if _succeeds("sacct", "--noheader", "--allocations"):
            return

        class Watcher(SlurmInfoWatcher):
            def _make_command(self) -> list[str] | None:
                if self._registered <= self._finished:
                    return None
                return ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%N"]

            def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
                text = string.decode() if isinstance(string, bytes) else string
                lines = (line.split("|") for line in text.splitlines())
                queue = {job: {"State": state, "NodeList": nodes} for job, state, nodes in lines}
                return {job: queue.get(job, {"State": "ENDED"}) for job in self._registered - self._finished}

        SlurmJob.watcher = Watcher(delay_s=60)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
