"""Networks of libraries by name, `model=torchvision/NAME` and `model=timm/NAME`, with the metadata of their weights.

A library's weights define the input they were trained for: size, mean and deviation, interpolation and crop
(`weights.transforms()` of torchvision, `resolve_data_config` of timm). A network by name uses all of it, unless the
config overrides it. timm is optional: every other network works without it.
"""

import csv
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Library = Literal["torchvision", "timm"]
LIBRARIES: tuple[Library, ...] = ("torchvision", "timm")
DEFAULT = "default"
"""Name of a library's default weights."""
LIST = "`eigencam networks PATTERN` lists networks"
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".pth.tar", ".tar", ".ckpt", ".bin")
"""Suffixes of weights files."""


@dataclass(frozen=True, slots=True)
class Described:
    """A library's metadata of a network's weights.

    Attributes:
        weights: their name; "" if the library has none.
        classes: class space of the outputs; None without a classifier.
        preprocess: the fields of a `Preprocess`.
        outputs: number of the outputs; None: not known.
        top1: top-1 accuracy on ILSVRC's validation images that the library reports, %; None: not known.
    """

    weights: str
    classes: str | None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    outputs: int | None = None
    top1: float | None = None


def is_file_name(weights: object) -> bool:
    """Whether `weights` names a file rather than weights of a library."""
    return str(weights).lower().endswith(WEIGHT_FILES) or "/" in str(weights)


@cache
def names(library: Library) -> tuple[str, ...]:
    """The names of a library's networks that classify. ValueError if the library is not installed."""
    if library == "torchvision":
        import torchvision

        return tuple(sorted(torchvision.models.list_models(torchvision.models)))
    return tuple(timm_module().list_models())


@cache
def weights_of(library: Library, name: str) -> tuple[str, ...]:
    """The names of a library's weights for a network."""
    if library == "torchvision":
        from torchvision.models import get_model_weights

        return tuple(w.name for w in get_model_weights(name))
    prefix = f"{name.partition('.')[0]}."
    return tuple(n.removeprefix(prefix) for n in timm_module().list_models(pretrained=True) if n.startswith(prefix))


def near(library: Library, name: str, count: int = 5) -> list[str]:
    """Names of a library's networks that are similar to a name."""
    bare = name.partition(".")[0]
    known = names(library)
    begin = [n for n in known if len(bare) > 3 and n.startswith(bare)][:count]
    return list(dict.fromkeys([*begin, *difflib.get_close_matches(bare, known, n=count, cutoff=0.6)]))[:count]


def check_name(library: str, name: str) -> None:
    """ValueError, with near matches, if a library has no network of this name."""
    if library not in LIBRARIES:
        raise ValueError(f"model.library={library}; allowed: {', '.join(LIBRARIES)}")
    bare, _, tag = name.partition(".")
    if library == "timm" and bare in names("timm"):
        if tag and tag not in weights_of("timm", bare):
            have = ", ".join(weights_of("timm", bare)) or "none"
            raise ValueError(f"model=timm/{name}: no weights {tag!r} of {bare}; there are: {have}")
        return
    if library == "torchvision" and name in _torchvision_builders():
        return
    found = [f"{library}/{n}" for n in near(library, name)]
    for other in LIBRARIES:
        if other != library and (other != "timm" or has_timm()):
            found += [f"{other}/{n}" for n in ([name] if name in names(other) else near(other, name, 2))]
    hint = f"near matches: {', '.join(found)}; " if found else ""
    raise ValueError(f"model={library}/{name}: {library} has no network of this name; {hint}{LIST}")


def describe(
    library: Library, name: str, weights: str | None = DEFAULT, args: Mapping[str, Any] | None = None
) -> Described:
    """A library's metadata of a network's weights; for a file, or for none, those of its default weights.

    Raises:
        ValueError: the library has no such weights.
    """
    named = DEFAULT if weights is None or is_file_name(weights) else weights
    described = _torchvision_described(name, named) if library == "torchvision" else _timm_described(name, named)
    return _adapted(described, args or {})


def target(name: str) -> str:
    """The dotted name of a torchvision network's constructor."""
    from torchvision.models import get_model_builder

    builder = get_model_builder(name)
    package = "torchvision.models"
    import torchvision.models

    inside = getattr(torchvision.models, builder.__name__, None) is builder
    return f"{package if inside else builder.__module__}.{builder.__name__}"


def _adapted(described: Described, args: Mapping[str, Any]) -> Described:
    """Apply the constructor's arguments that change the input's size and channels, or the outputs."""
    preprocess, classes = dict(described.preprocess), described.classes
    size = args.get("img_size", args.get("image_size"))
    if size is not None and preprocess.get("size"):
        ratio = preprocess.get("short_side", 0) / _least(preprocess["size"])
        preprocess["size"] = size
        if "short_side" in preprocess:
            preprocess["short_side"] = math.floor(_least(size) * ratio)
    channels = args.get("in_chans")
    if channels is not None and len(preprocess.get("mean", ())) != channels:
        for key in ("mean", "std"):
            preprocess[key] = (sum(preprocess[key]) / len(preprocess[key]),) * channels
    if "num_classes" in args:
        classes = {0: None, 1000: classes}.get(args["num_classes"], "own")
    return replace(described, classes=classes, preprocess=preprocess)


def _least(size: Any) -> int:
    return size if isinstance(size, int) else min(size)


@cache
def _torchvision_builders() -> frozenset[str]:
    from torchvision.models import list_models

    return frozenset(list_models())


def _torchvision_described(name: str, weights: str) -> Described:
    from torchvision.models import get_model_weights

    options = get_model_weights(name)
    known = {w.name: w for w in options}
    if weights.lower() == DEFAULT:
        chosen = getattr(options, "DEFAULT", None)
    elif weights in known:
        chosen = known[weights]
    else:
        raise ValueError(
            f"weights {weights!r} of torchvision/{name}; allowed: {DEFAULT}, {', '.join(known)}, a weight file, or null"
        )
    if chosen is None:
        return Described("", None)
    transforms = chosen.transforms()
    preprocess: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # a detector normalises its input
    if hasattr(transforms, "mean"):
        preprocess |= {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}
        preprocess["interpolation"] = transforms.interpolation.value
    if hasattr(transforms, "crop_size"):
        preprocess |= {"size": transforms.crop_size[0], "resize": "crop", "short_side": transforms.resize_size[0]}
    elif getattr(transforms, "resize_size", None):
        preprocess |= {"size": transforms.resize_size[0], "resize": "squash"}
    classifies = hasattr(transforms, "crop_size")
    categories = len(chosen.meta.get("categories") or ())
    reported = chosen.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    classes = ("imagenet" if categories == 1000 else "own") if classifies and categories else None
    return Described(chosen.name, classes, preprocess, categories or None, reported)


def has_timm() -> bool:
    """Whether timm is installed."""
    from importlib.util import find_spec

    return find_spec("timm") is not None


def timm_module() -> Any:
    """The library. ValueError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"timm is not installed ({error}); pip install 'eigencam-bench[timm]' (or timm alone) gives its networks"
        ) from None
    return timm


def _timm_described(name: str, weights: str) -> Described:
    timm_module()
    from timm.data.config import resolve_data_config
    from timm.models import get_pretrained_cfg

    bare, _, tag = name.partition(".")
    if weights.lower() != DEFAULT:
        if weights not in weights_of("timm", bare):
            have = ", ".join(weights_of("timm", bare)) or "none"
            raise ValueError(f"weights {weights!r} of timm/{bare}; allowed: {DEFAULT}, {have}, a weight file, or null")
        tag = weights
    config = get_pretrained_cfg(f"{bare}.{tag}" if tag else bare)
    if config is None:
        return Described("", "own")
    made = resolve_data_config(pretrained_cfg=config.to_dict())
    _, high, wide = made["input_size"]
    preprocess: dict[str, Any] = {key: tuple(made[key]) for key in ("mean", "std")}
    preprocess |= {"size": high if high == wide else (high, wide), "interpolation": made["interpolation"]}
    preprocess |= _timm_crop(made["crop_mode"], made["crop_pct"], min(high, wide))
    classes = {0: None, 1000: "imagenet"}.get(config.num_classes, "own")
    known = bool(config.tag) and config.tag in weights_of("timm", bare)
    reported = _timm_reported().get(f"{bare}.{config.tag}")
    return Described((config.tag or "") if known else "", classes, preprocess, config.num_classes, reported)


@cache
def _timm_reported() -> Mapping[str, float]:
    """Top-1 accuracy, %, by the full name of the weights, where `published.csv` has a number of timm's own table."""
    with (files("eigencam.published") / "published.csv").open() as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        errors = [row for row in rows if (row["paper"], row["metric"]) == ("timm2026", "cls_error_top1")]
    return {row["note"].partition(",")[0]: 100 - float(row["value"]) for row in errors}


def _timm_crop(mode: str, share: float, side: int) -> dict[str, Any]:
    if mode == "squash":
        return {"resize": "squash"} if share == 1 else {"resize": "squash_crop", "short_side": math.floor(side / share)}
    if mode == "border":  # `Preprocess` has no border with a crop, and refuses it unless overridden
        return {"resize": "pad" if share == 1 else "border"}
    return {"resize": "crop", "short_side": math.floor(side / share)}
