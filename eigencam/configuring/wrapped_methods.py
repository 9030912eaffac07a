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
def _packaged(name: str) -> dict[str, dict[str, Any]]:
    """Return the one node of a packaged option that has a file, by its key; {} if there is none."""
    from omegaconf import OmegaConf

    file = files("eigencam.configs").joinpath("method", f"{name}.yaml")
    return OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8"))) if file.is_file() else {}  # type: ignore[return-value]


def _option(name: str) -> dict[str, Any] | None:
    """Return the node of a packaged option that has a file; None if there is none."""
    return next(iter(_packaged(name).values()), None)


def short_name(option: str) -> str:
    """Return the name of an option's method in configs and results.

    >>> short_name("captum/any"), short_name("smooth/gradcam"), short_name("folder/mine")
    ('captum', 'smooth_gradcam', 'mine')
    """
    if wrapped(option):
        return option.replace("/", "_")
    return next(iter(_packaged(option)), option.rsplit("/", 1)[-1])


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
