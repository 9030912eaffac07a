"""`method=WRAPPER/METHOD`: a packaged method that runs another one, with any packaged method as the inner one.

`smooth/gradcam` is an option without a file: the node of `configs/method/smooth.yaml` with its `method` replaced by the
node of `gradcam`, under the name `smooth_gradcam`. A wrapper is an option whose node has a key `method` with a
`_target_`; wrappers may be nested (`aug_smooth/finercam/layercam`). Parameters are `method.smooth_gradcam.samples` and,
for the inner method, `method.smooth_gradcam.method.relu`. To wrap your own method, write a YAML.
"""

from functools import cache
from importlib.resources import files
from typing import Any


@cache
def _option(name: str) -> dict[str, Any] | None:
    """Return the node of a packaged option that has a file; None if there is none."""
    from omegaconf import OmegaConf

    file = files("eigencam.configs").joinpath("method", f"{name}.yaml")
    if not file.is_file():
        return None
    ((_, node),) = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8"))).items()  # type: ignore[union-attr]
    return node


def is_wrapper(name: str) -> bool:
    """Whether a packaged option runs another method."""
    inner = (_option(name) or {}).get("method")
    return isinstance(inner, dict) and "_target_" in inner


def wrapped(option: str) -> dict[str, Any] | None:
    """Return the node of `WRAPPER/METHOD`; None if one of them is not packaged.

    >>> wrapped("smooth/hirescam")["method"], wrapped("gradcam/hirescam")
    ({'_target_': 'eigencam.methods.gradient_weighted.HiResCAM'}, None)
    """
    wrapper, _, inner = option.partition("/")
    node = _option(wrapper) if is_wrapper(wrapper) else None
    method = (wrapped(inner) or _option(inner)) if "/" in inner else _option(inner)
    return None if node is None or method is None else {**node, "method": dict(method)}
