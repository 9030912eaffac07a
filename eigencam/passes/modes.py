"""A watch over every operation that torch runs, below its functions."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that needs no compiler: torch imports its own, seconds long, to keep it away from the others."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
