"""Maps made elsewhere as a method."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import network

from eigencam.methods.files import MapFiles
from eigencam.passes.forward import forward_pass


def test_maps_of_a_folder_are_rows_like_any_other(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(42.0).reshape(6, 7))
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "b.png")
    forward = forward_pass(network("gap"), torch.zeros(2, 3, 6, 7), "conv")
    forward.ids = ("b", "a")
    method = MapFiles(str(tmp_path))
    found = method(forward, torch.zeros(2))
    assert found.shape == (2, 6, 7)
    assert torch.equal(found[1], torch.arange(42.0).view(6, 7))
    assert found[0, :, 0].eq(0).all()
    assert found[0, :, -1].eq(65535).all()
    assert not method.lacking(["a", "b"])
    assert "no map for 1 images, e.g. c" in method.lacking("abc")


def test_other_maps_are_another_result(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    before = MapFiles(str(tmp_path)).identity()
    assert MapFiles(str(tmp_path)).identity() == before
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    assert MapFiles(str(tmp_path)).identity() != before
    with pytest.raises(FileNotFoundError, match="no such folder"):
        MapFiles(str(tmp_path / "nowhere"))
