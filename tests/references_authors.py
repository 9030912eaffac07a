"""References that are the authors' own code, run from clones in `EIGENCAM_AUTHORS=FOLDER`.

FOLDER has a clone `NAME` of each repository `OWNER/NAME` at the commit that a reference names; references without a
clone are left out. The codes need a GPU; here `.cuda()` does nothing. Where they use a single function of a library, it
is replaced by another library's.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from references import Case
from references_cam import at_layer
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from eigencam.networks.network import Network

FOLDER = os.environ.get("EIGENCAM_AUTHORS")
GROUP = "wofmanaf/Group-CAM@ffd807b"
RECIPRO = "sybyun/ReciproCAM@bfbf22c"
OPTI = "hanwei0912/OptiCAM@78339fa"
POLY = "andralex8/polycam@8003dc6"
SALIENCY = "PAIR-code/saliency@7b72b67"
SOBOL = "fel-thomas/Sobol-Attribution-Method@f4103ed"


def absent(reference: str, also: Callable[[Network], str] = lambda _network: "") -> Callable[[Network], str]:
    """Return why a reference `OWNER/NAME@commit` cannot run; "" if it can."""
    name = reference.partition("@")[0].partition("/")[2]

    def unfit(network: Network) -> str:
        if not FOLDER:
            return "EIGENCAM_AUTHORS is not set"
        return also(network) if Path(FOLDER, name).is_dir() else f"no {name} in EIGENCAM_AUTHORS"

    return unfit


@contextmanager
def loaded(reference: str, file: str, stand_ins: Mapping[str, Mapping[str, Any]] = {}) -> Iterator[ModuleType]:
    """A file of a repository as a module, on the CPU; `stand_ins` are modules that it imports, by name."""
    folder = Path(FOLDER or "", reference.partition("@")[0].partition("/")[2])
    modules = {}
    for name, content in stand_ins.items():
        modules[name] = ModuleType(name)
        modules[name].__dict__.update(content)
    spec = importlib.util.spec_from_file_location("authors", folder / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, modules), patch.object(Tensor, "cuda", lambda self, *_: self):
        spec.loader.exec_module(module)
        yield module


def opti(steps: int) -> Callable[[Case], Tensor]:
    """Return Opti-CAM, scaled to 0..1 and enlarged like theirs; masked images have values in 0..1."""

    def made(case: Case) -> Tensor:
        class Extractor:
            def __init__(self, model: nn.Module, *_: Any) -> None:
                self.model, self.activations = model, list[Tensor]()

            def __call__(self, x: Tensor) -> Tensor:
                self.activations.clear()
                layer = self.model[1].get_submodule(case.network.layer)  # type: ignore[index]
                handle = layer.register_forward_hook(lambda _m, _i, out: self.activations.append(out.detach()))
                out = self.model(x)
                handle.remove()
                return out

        stand_ins = {"activations_and_gradients": {"ActivationsAndGradients": Extractor}}
        black, white = (case.network.preprocess.normalize(torch.full((1, 3, 1, 1), v), torch.float64) for v in (0, 255))
        found = []
        with loaded(OPTI, "util.py", stand_ins) as theirs:
            seen = theirs.Preprocessing_Layer((-black / (white - black)).flatten(), (1 / (white - black)).flatten())
            for x, y in zip(case.images, case.targets, strict=True):
                network = nn.Sequential(seen, case.module())
                method = theirs.Basic_OptCAM(network, "cpu", steps, 0.1, "", name_loss="plain", name_mode="resnet")
                found.append(method(x[None].double() / 255, y[None])[0][0].detach())
        return torch.cat(found)

    return made


def poly(weights: str, layers: Callable[[Network], list[str]]) -> Callable[[Case], Tensor]:
    """Return Poly-CAM over the layers, scaled and enlarged to the input's size as theirs is."""

    def made(case: Case) -> Tensor:
        name, found = {"plus": "PCAMp", "minus": "PCAMm", "both": "PCAMpm"}[weights], []
        with patch.object(sys, "path", [str(Path(FOLDER or "", "polycam")), *sys.path]):
            theirs = importlib.import_module("polycam.polycam")
            for x, y in zip(case.inputs, case.targets, strict=True):
                found.append(getattr(theirs, name)(case.module(), layers(case.network))(x[None], int(y))[-1][0])
        return torch.cat(found).detach()

    return made


def blur_ig(steps: int, sigma: float) -> Callable[[Case], Tensor]:
    """Return Blur IG, summed over the colours."""

    def made(case: Case) -> Tensor:
        with patch.object(sys, "path", [str(Path(FOLDER or "", "saliency")), *sys.path]):
            theirs = importlib.import_module("saliency.core.blur_ig")
        found = []
        for x, y in zip(case.inputs, case.targets, strict=True):
            module = case.module()

            def answer(images: Any, module: nn.Module = module, y: Tensor = y, **_more: Any) -> dict[str, Any]:
                asked = torch.as_tensor(images).movedim(3, 1).requires_grad_()
                (gradient,) = torch.autograd.grad(module(asked)[:, y].sum(), asked)
                return {"INPUT_OUTPUT_GRADIENTS": gradient.movedim(1, 3).numpy()}

            mask = theirs.BlurIG().GetMask(x.movedim(0, 2).numpy(), answer, max_sigma=sigma, steps=steps)
            found.append(torch.as_tensor(mask).sum(2))
        return torch.stack(found)

    return made


def sobol(designs: int, cells: int) -> Callable[[Case], Tensor]:
    """Return Sobol indices by the authors' sequence, SciPy's, and their estimator, mask by mask."""

    def made(case: Case) -> Tensor:
        with loaded(SOBOL, "sobol_attribution_method/sampling.py", {"tensorflow": {}}) as theirs:
            masks = theirs.ScipySobolSequence()(cells**2, designs).reshape(-1, 1, cells, cells)
        with loaded(SOBOL, "sobol_attribution_method/estimators.py") as theirs:
            estimator, found, module = theirs.JansenEstimator(), [], case.module()
            for x, y in zip(case.inputs, case.targets, strict=True):
                with torch.no_grad():
                    shown = [x * interpolate(torch.from_numpy(m[None]), x.shape[1:])[0] for m in masks]
                    scores = torch.cat([module(one[None])[:, y] for one in shown]).numpy()
                found.append(torch.from_numpy(estimator(masks, scores, designs)[0]))
        return torch.stack(found)

    return made


def recipro(case: Case) -> Tensor:
    """Return Recipro-CAM, scaled to 0..1 as theirs is."""
    with loaded(RECIPRO, "src/recipro_cam.py") as theirs:

        class At(theirs.ReciproCam):  # at a named layer
            def _find_target_layer(self, m: nn.Module, depth: int = 0) -> None:
                self.target_layers = [m.get_submodule(case.network.layer)]

        found = [At(case.module(), "cpu")(x[None], int(y))[0] for x, y in zip(case.inputs, case.targets, strict=True)]
    return torch.stack(found)


def group(case: Case) -> Tensor:
    """Return Group-CAM, scaled to 0..1 and enlarged to the input's size as theirs is."""

    class Base:
        def __init__(self, model: nn.Module, target_layer: str) -> None:
            self.model = model

        def __call__(self, *args: Any) -> Any:
            return self.forward(*args)  # type: ignore[attr-defined]

    stand_ins = {
        "kornia": {},
        "kornia.filters": {},
        "kornia.filters.gaussian": {
            "gaussian_blur2d": lambda x, kernel_size, sigma: gaussian_blur(x, list(kernel_size), list(sigma))
        },
        "utils": {"group_sum": None},
        "cam": {"BaseCAM": Base},
    }
    activations, gradients = at_layer(case, case.inputs)
    with loaded(GROUP, "cam/groupcam.py", stand_ins) as theirs:
        found = []
        for n, (x, y) in enumerate(zip(case.inputs, case.targets, strict=True)):
            method = theirs.GroupCAM(case.module())
            method.activations, method.gradients = {"value": activations[n : n + 1]}, {"value": gradients[n : n + 1]}
            with patch.object(Tensor, "backward", lambda *_args, **_more: None):
                found.append(method(x[None], int(y))[0, 0])
    return torch.stack(found)
