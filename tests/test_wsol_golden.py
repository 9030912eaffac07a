"""MaxBoxAcc and MaxBoxAccV2 compared with stored hits of the authors' steps, without OpenCV; and on real images."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eigencam.datasets.base import Truth
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
LEVELS = (np.arange(0, 1, 0.001) * 255).astype(np.int64)
SHARED = os.environ.get("EIGENCAM_SHARED")


def test_hits_are_those_that_the_authors_steps_gave() -> None:
    golden = np.load(ROOT / "tests/wsol_golden.npz")
    count = sum(name.startswith("map_") for name in golden)
    assert count == 16
    for n in range(count):
        boxes = golden[f"boxes_{n}"]
        height, width = golden[f"size_{n}"].tolist()
        truth = Truth("a", (height, width), 3, boxes, np.full(len(boxes), 3))
        wanted = np.unpackbits(golden[f"hits_{n}"], axis=-1, count=1000).astype(bool)
        for contours, hits in zip(("largest", "all"), wanted, strict=True):
            row = MaxBoxAcc(contours, (0.3, 0.5, 0.7)).row(ScoreMap(golden[f"map_{n}"], truth.size), truth)
            found = [np.unpackbits(row[f"hits_{iou}"], count=255)[LEVELS].astype(bool) for iou in (30, 50, 70)]
            np.testing.assert_array_equal(found, hits)
    assert sum(golden[f"hits_{n}"].any() for n in range(count)) >= 10  # the file says something


@pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set: it names the folder with the real images")
def test_maps_of_real_images() -> None:
    data = Path(str(SHARED)) / "realdata"
    paths = {"EIGENCAM_WEIGHTS": str(data / "weights"), "EIGENCAM_ILSVRC": str(data)}
    options = ["model=squeezenet1_1_local", "dataset=ilsvrc", "method=[eigencam,cam,gradcampp]", "device=cpu"]
    command = [sys.executable, ROOT / "scripts/wsol_agreement.py", "--count", "0", "--images", "3", *options]
    done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("9 maps"), done.stderr
    assert "0 differ" in done.stdout
    assert done.returncode == 0
