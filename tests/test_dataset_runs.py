"""Each preset, from files in its dataset's layout to metrics on disk, with an embedded network."""

from collections.abc import Callable
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from hydra import compose, initialize_config_module

from eigencam.running.run import run

pytestmark = pytest.mark.full


def write_imagenet_segmentation(root: Path) -> Path:
    masks = [np.zeros((30, 40), np.uint8), np.zeros((50, 20), np.uint8)]
    masks[0][5:20, 8:30] = masks[1][:, :9] = 1
    files.write_imagenet_segmentation(root / "gtsegs_ijcv.mat", masks)
    return root


PRESETS: dict[
    str, tuple[str, Callable[[Path], object], int, dict[str, int]]
] = {  # paths' key, writer, rows, n of a metric
    "imagenet_segmentation": (
        "imagenet_segmentation",
        write_imagenet_segmentation,
        2,
        {"mean_ap": 2, "precision_eer": 2},
    ),
    "graz02": ("ig02", files.write_ig02, 2, {"precision_eer": 2}),
    "openimages30k": ("openimages30k", files.write_openimages, 2, {"pxap": 2, "mean_ap": 2}),
    "cub_wsol": ("cub", files.write_wsol_cub, 2, {"max_box_acc": 2, "max_box_acc_v2": 2, "box_error": 2}),
    "coco_pointing": ("coco", files.write_coco, 3, {"pointing_accuracy": 2, "energy_inside": 2}),
    "imagenetv2_wsol": ("imagenetv2", files.write_imagenetv2, 3, {"max_box_acc": 3, "error": 3}),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_on_files_of_its_dataset(tmp_path: Path, preset: str) -> None:
    key, write, n, wanted = PRESETS[preset]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    chosen = [f"experiment={preset}", f"paths.{key}={tmp_path / 'data'}", f"paths.results={tmp_path / 'runs'}"]
    machine = ["model=scenes_resnet", "method=[eigencam,center_gaussian]", "device=cpu", "workers=0"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        job = run(compose("run", [*chosen, *machine]))
    found: dict[str, int] = {}
    for result in job.results.values():
        assert len(result.rows()) == n
        assert result.summary is not None
        found |= {metric["name"]: metric["n"] for metric in result.summary.metrics}
        assert all(np.isfinite(m["value"]) for m in result.summary.metrics if m["name"] in wanted)
    assert wanted.items() <= found.items()
