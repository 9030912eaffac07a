"""Additions to submitit for `launcher=slurm` and `launcher=local`: job states without `sacct`, removal of its files."""

import subprocess
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

NOTHING_DONE = (": 0 results completed", ": nothing to compute")
"""One of these is part of the last line of a run that completed no result."""


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


class Tidy(Callback):
    """Removes submitit's files after a sweep without failures, except the logs of jobs that computed something.

    submitit writes up to eight files per job. If a job fails, Hydra does not call this, and all files stay.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra after the last job."""
        folder = Path(str(config.hydra.launcher.submitit_folder).partition("%")[0])
        for pattern in ("*_submitted.pkl", "*_result.pkl", "*_submission.sh"):
            for path in folder.rglob(pattern):
                path.unlink(missing_ok=True)
        for log in list(folder.rglob("*_log.out")):
            said = log.read_text(errors="replace")
            if any(words in said for words in NOTHING_DONE):
                for path in (log, log.with_suffix(".err")):
                    path.unlink(missing_ok=True)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and not path.stat().st_size:
                path.unlink()


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
