"""A watch over every operation that torch executes, below its Python functions."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A dispatch mode without the compiler: torch's own would import it, which takes seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
