"""The entry points on a simulated GPU: runs, fits, `explain` and the `Explainer` give the CPU's results."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from method_trials import network
from PIL import Image
from pretend_gpu import pretend_gpu
from runs import config
from torch import Tensor

import eigencam.running.batch_pass
from eigencam import Explainer, targets
from eigencam.commands.main import main
from eigencam.fitting.job import fit
from eigencam.networks import fitted
from eigencam.networks.network import Preprocess
from eigencam.passes.forward import Forward
from eigencam.passes.precision import float32_precision
from eigencam.running.batch_maps import Maps, compute_maps
from eigencam.running.prepare import prepare
from eigencam.running.run import run

pytestmark = pytest.mark.full

MAPS = "[localization,maxboxacc,pxap,pointing,energy,segmentation,proposals,foreground]"
SMALL = ["dataset.count=12", "batch_size=4", "timing=false", "method=[gradcam,gradcampp,random]"]
ONE = ["method=[eigencam]", "evaluator=[localization]", "dataset.count=1"]


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Leaves the process as it was."""
    with float32_precision():
        yield


def quiet(_line: str) -> None: ...


def rows(results: Path) -> dict[str, pd.DataFrame]:
    return {folder.parent.name: pd.read_parquet(folder) for folder in sorted(results.glob("*/rows.parquet"))}


@pytest.mark.parametrize(
    "asked",
    [
        [f"evaluator={MAPS}", "method=[gradcam,rise,random]", "method.rise.masks=20"],
        ["evaluator=[average_drop]", "target=each", "dataset.count=4"],
        ["evaluator=[localization]", "target=predicted", "method=[cam,gradcam]", "timing=true"],
        ["evaluator=[proposals]", "method=[center_windows,random_windows]"],
    ],
)
def test_a_run(asked: list[str], tmp_path: Path) -> None:
    asked = [*SMALL, *asked, "chunk=16"]  # the same on both, so that RISE's masks are added up in one order
    run(config(tmp_path / "cpu", *asked), say=quiet)
    with pretend_gpu():
        run(config(tmp_path / "gpu", *asked, "device=cuda"), say=quiet)
    expected, found = rows(tmp_path / "cpu"), rows(tmp_path / "gpu")
    assert found.keys() == expected.keys()
    for name, frame in found.items():
        pd.testing.assert_frame_equal(frame, expected[name])


def test_one_copy_in_one_copy_out_and_one_wait_a_batch(tmp_path: Path) -> None:
    asked = [*SMALL, f"evaluator={MAPS}", "device=cuda", "method=[gradcam,gradcampp,random,center_box]"]
    counts = []
    for batches in (1, 3):
        with pretend_gpu() as ledger:
            run(config(tmp_path / str(batches), *asked, f"dataset.count={4 * batches}"), say=quiet)
            counts.append(ledger.counts())
    few, many = counts
    more = {kind: many[kind] - few[kind] for kind in few}
    assert more == {"operations": more["operations"], "copies_in": 2, "copies_out": 2, "waits": 2}


@pytest.mark.parametrize(
    ("device", "events"),
    [
        ("cuda", ["launch", "launch", "wait", "launch", "wait", "wait"]),
        ("cpu", ["launch", "wait", "launch", "wait", "launch", "wait"]),
    ],
)
def test_a_gpu_has_a_batch_in_flight(
    device: str, events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    arrived = Maps.arrived

    def noted(self: Maps) -> Any:
        if self._arrived is None:
            seen.append("wait")
        return arrived(self)

    def launched(*args: Any, **options: Any) -> Maps:
        seen.append("launch")
        return compute_maps(*args, **options)

    monkeypatch.setattr(Maps, "arrived", noted)
    monkeypatch.setattr(eigencam.running.batch_pass, "compute_maps", launched)
    with pretend_gpu():
        run(config(tmp_path, *SMALL, "evaluator=[localization]", f"device={device}"), say=quiet)
    assert seen == events


def test_an_explainer() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    asked = ["eigencam", "gradcam", "cam", "gradient"]
    expected = Explainer(network("scenes_resnet", "cpu"))(image, asked)
    with pretend_gpu():
        found = Explainer(network("scenes_resnet", "cuda"))(image, asked)
    assert found.target == expected.target
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5)
    for name in asked:
        np.testing.assert_allclose(found[name].map, expected[name].map, rtol=1e-4, atol=1e-6)


def test_targets_of_a_classifier() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    reference = np.linspace(-1, 1, 24, dtype=np.float32)[: network("scenes_resnet", "cpu").forward(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).logits.shape[1]]  # fmt: skip
    asked = [targets.difference(2, 3), targets.embedding(reference), 1]
    expected = Explainer(network("scenes_resnet", "cpu"))(image, "gradcam", target=asked)
    with pretend_gpu():
        found = Explainer(network("scenes_resnet", "cuda"))(image, "gradcam", target=asked)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["gradcam"].raw, other["gradcam"].raw, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "asked"), [
    ("faster_rcnn", lambda: targets.box_score(0)),
    ("deeplab", lambda: targets.segment(1, np.eye(48, 80) > 0)),
])  # fmt: skip
def test_targets_of_other_networks(name: str, asked: Callable[[], Any]) -> None:
    image, layer = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8), detectors.LAYERS[name]
    plain = Preprocess(size=detectors.SIDE, mean=(0, 0, 0), std=(1, 1, 1))
    expected = Explainer(detectors.built(name), layer, preprocess=plain)(image, ["eigencam", "gradcam"], target=asked())
    with pretend_gpu():
        module = detectors.built(name).to("cuda")
        found = Explainer(module, layer, preprocess=plain)(image, ["eigencam", "gradcam"], target=asked())
    for method in expected:
        raw = expected[method].raw
        np.testing.assert_allclose(found[method].raw, raw, rtol=1e-3, atol=1e-4 * np.abs(raw).max())


def test_explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").convert("RGB").save("photo.png")
    asked = ["explain", "photo.png", "--model", "scenes_resnet", "--method", "eigencam,gradcam"]
    assert main([*asked, "device=cpu", "--out", "cpu"]) == 0
    with pretend_gpu():
        assert main([*asked, "device=cuda", "--out", "gpu"]) == 0
    names = sorted(path.name for path in Path("cpu").iterdir())
    assert sorted(path.name for path in Path("gpu").iterdir()) == names
    assert all(Path("cpu", name).read_bytes() == Path("gpu", name).read_bytes() for name in names)


@pytest.mark.parametrize("kind", ["lcam_fm", "lcam_img", "broadcam", "classifier"])
def test_every_fit(kind: str, tmp_path: Path) -> None:
    few = ["workers=0", *(["fit.epochs=1"] if kind.startswith("lcam") else [])]
    tensors = []
    for device in ("cpu", "cuda"):
        asked = [
            f"fit={kind}",
            "dataset.count=12",
            "fit.batch_size=4",
            "workers=0",
            f"paths.results={tmp_path / device}",
        ]
        with pretend_gpu(), initialize_config_module("eigencam.configs", version_base="1.3"):
            composed = compose("fit", [*asked, *few, f"device={device}"])
            tensors.append(fitted.read(fit(composed, say=quiet)).tensors)
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["lcam_fm", "lcam_img", "broadcam"])
def test_a_fit_asks_no_more_of_the_device_for_a_larger_batch(kind: str, tmp_path: Path) -> None:
    few, counts = ["fit.epochs=1"] if kind.startswith("lcam") else [], []
    for size in (2, 6):
        asked = [f"fit={kind}", f"fit.batch_size={size}", f"dataset.count={2 * size}", "workers=0", *few]
        with pretend_gpu() as ledger, initialize_config_module("eigencam.configs", version_base="1.3"):
            fit(compose("fit", [*asked, f"paths.results={tmp_path / str(size)}", "device=cuda"]), say=quiet)
            counts.append(ledger.counts())
    assert counts[0] == counts[1]


def test_a_batch_is_larger_on_a_gpu_and_no_part_of_an_identity(tmp_path: Path) -> None:
    asked = [f"paths.results={tmp_path}", "method=[eigencam]", "evaluator=[localization]", "batch_size=auto"]
    on_cpu = prepare(config(tmp_path, *asked))
    with pretend_gpu():
        on_gpu = prepare(config(tmp_path, *asked, "device=cuda"))
    assert (on_cpu.config.batch_size, on_gpu.config.batch_size) == (16, 128)
    assert {r.folder for r in on_cpu.results.values()} == {r.folder for r in on_gpu.results.values()}


@pytest.mark.parametrize(("dtype", "device", "another"), [
    ("tf32", "cpu", False), ("tf32", "cuda", True), ("autocast", "cpu", True), ("autocast", "cuda", True),
])  # fmt: skip
def test_less_precision_is_another_result(dtype: str, device: str, another: bool, tmp_path: Path) -> None:
    folders = []
    with pretend_gpu():
        for asked in ("float32", dtype):
            one = ["method=[eigencam]", "evaluator=[localization]", f"device={device}", f"dtype={asked}"]
            folders += [result.folder for result in prepare(config(tmp_path, *one)).results.values()]
    assert (folders[0] != folders[1]) == another


class Looking:
    """A method that records how numbers are rounded."""

    needs_gradient, class_specific = False, False

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, torch.dtype]] = []

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        tap = forward._taps[forward.layer]
        self.seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, tap.dtype))
        return tap.float().mean(1)


@pytest.mark.parametrize(("dtype", "seen"), [
    ("float32", ("highest", False, torch.float32)),
    ("tf32", ("high", True, torch.float32)),
    ("autocast", ("highest", False, torch.bfloat16)),
])  # fmt: skip
def test_one_rule_of_precision_at_every_door(dtype: str, seen: tuple[Any, ...], tmp_path: Path) -> None:
    looking = Looking()
    torch.backends.cudnn.allow_tf32 = True  # torch's own default
    job = prepare(
        config(tmp_path, "method=[eigencam]", "evaluator=[localization]", f"dtype={dtype}", "dataset.count=1")
    )
    images = torch.from_numpy(job.network.preprocess(job.dataset.image(0))[0])[None]
    compute_maps(job.network, {"look": looking}, images)
    torch.backends.cudnn.allow_tf32 = True
    Explainer(job.network, tf32=dtype == "tf32", autocast=dtype == "autocast")(job.dataset.image(0), looking)
    assert looking.seen == [seen, seen]
    assert torch.backends.cudnn.allow_tf32


def test_autocast_is_near_float32(tmp_path: Path) -> None:
    job = prepare(
        config(tmp_path, "method=[eigencam,gradcam,ablationcam]", "evaluator=[localization]", "dataset.count=1")
    )
    image = job.dataset.image(0)
    found = [Explainer(job.network, autocast=on)(image, dict(job.methods)) for on in (False, True)]
    for name in job.methods:
        exact, less = (one[name].raw for one in found)
        assert 0 < np.abs(exact - less).max() < 0.1 * np.abs(exact).max()
