"""Keeps a process running when its output is closed: `eigencam run | head`, a closed terminal."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any


class _Outliving(io.FileIO):
    """A stream's file, which becomes the null device when its reader has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let this process outlive the readers of its output; a closed stream discards what is printed."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            stream.flush()
            buffer = io.BufferedWriter(_Outliving(stream.fileno(), "w", closefd=False))
            made = io.TextIOWrapper(
                buffer,
                encoding=stream.encoding,
                errors="backslashreplace",  # a path may be any bytes
                line_buffering=stream.line_buffering or stream.write_through,  # the error stream has no buffer
                write_through=stream.write_through,
            )
            setattr(sys, name, made)
