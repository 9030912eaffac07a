"""A changed image is detected by every command that reads it for an existing result."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from stored import ENVIRONMENT, finished, plan, reseal, result, rows, rows_of

from eigencam.commands.main import main
from eigencam.datasets.digest import digest_of, file_digest, hash64, is_changed, pair_digest, pixel_digest
from eigencam.datasets.scenes import Scenes
from eigencam.datasets.subset import Subset
from eigencam.running.run import run
from eigencam.store.merge import merge


@pytest.mark.parametrize("size", [0, 1, 7, 8, 65536, 65537, 200_003])
def test_every_changed_byte_changes_the_hash(size: int) -> None:
    rng = np.random.default_rng(size)
    content = bytearray(rng.bytes(size))
    whole = hash64(content)
    assert len(whole) == 16
    assert hash64(bytes(content)) == whole
    for place in {0, size // 2, size - 1} if size else ():
        content[place] ^= 1 << int(rng.integers(8))
        assert hash64(content) != whole
        content[place] ^= 0xFF
        assert hash64(content) != whole
    assert hash64(bytes(content) + b"\0") != hash64(content)
    if size > 2 * 65536:
        swapped = content[65536:131072] + content[:65536] + content[131072:]
        assert hash64(swapped) != hash64(content)


def test_hashes_of_many_images_are_all_different_and_stay_as_they_are() -> None:
    found = {hash64(k.to_bytes(8, "little") * n) for k in range(200) for n in range(1, 50)}
    assert len(found) == 200 * 49
    assert hash64(b"abc") == hash64(memoryview(b"abc"))
    assert hash64(b"An image") == "5d6cdd7edb0f80d0"


def test_kinds_are_compared_with_their_own_only(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    digests = [file_digest(tmp_path / "a.png"), pixel_digest(pixels), digest_of(Scenes(3), 1)]
    assert [text.split(":")[0] for text in digests] == ["file", "pixels", "generated"]
    assert not any(is_changed(a, b) for a in digests for b in digests)
    assert pixel_digest(pixels) != pixel_digest(pixels.reshape(4, 2, 3))
    assert pair_digest(digests[:2]).startswith("pair:file:")
    assert digest_of(Subset(Scenes(3), [2]), 0) == digest_of(Scenes(3), 2)

    class Own:
        name = "own"

        def image(self, _i: int) -> Any:
            return pixels

    assert digest_of(Own(), 0) == pixel_digest(pixels)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images of three classes."""
    rng = np.random.default_rng(0)
    for k in range(6):
        place = tmp_path / "images" / f"class{k % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(place / f"{k}.bmp")
    return tmp_path / "images"


def composed(results: Path, *options: str) -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        common = ["model=scenes_resnet", "dataset=folder", "workers=0", "device=cpu", "timing=false"]
        return compose("run", [*common, f"paths.results={results}", *options])


def swap(images: Path, name: str) -> None:
    """Replace an image by another one of the same size in bytes, with the old file's times."""
    (path,) = images.rglob(name)
    before = path.stat()
    Image.fromarray(np.full((60, 80, 3), 7, np.uint8)).save(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.full
def test_a_method_added_later_and_verify_name_the_changed_image(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"dataset.root={images}", "target=predicted", "batch_size=2", "evaluator=[average_drop]"]
    run(composed(tmp_path / "r", *options, "method=[gradcam]"))
    (folder,) = (tmp_path / "r").iterdir()
    assert rows_of(folder)["digest"].str.fullmatch("file:[0-9a-f]{16}").all()
    assert main(["verify", "--data", str(tmp_path / "r")]) == 0
    swap(images, "3.bmp")
    capsys.readouterr()
    assert main(["verify", "--data", str(tmp_path / "r")]) == 1
    assert "3 is not the one that results were made from: file:" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"3 is not the one that results in .* put it back"):
        run(composed(tmp_path / "r", *options, "method=[random]"))
    run(composed(tmp_path / "elsewhere", *options, "method=[random]"))
    for folder in (tmp_path / "elsewhere").iterdir():
        shutil.rmtree(tmp_path / "r" / folder.name)  # for the refused run
        folder.rename(tmp_path / "r" / folder.name)
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "r")]) == 1
    assert "3 is another one than in " in capsys.readouterr().out


@pytest.mark.parametrize(("digest", "refused"), [("file:2", True), ("pixels:2", False), (None, False), ("", False)])
def test_a_merge_names_an_image_that_differs_and_compares_equal_kinds_only(
    tmp_path: Path, digest: str | None, refused: bool
) -> None:
    for name, text, last in (("a", "file:1", 4), ("b", digest, 6)):
        made = result(tmp_path / name)
        made.open("a: 1\n", ENVIRONMENT, plan=plan(6))
        frame = rows(4 if name == "a" else 3, start=last - (4 if name == "a" else 3))
        made.add(frame.assign(digest=text).to_dict("records"))  # type: ignore[arg-type]
        made.flush()
        made.close()
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert merged.complete == (not refused)
    assert ["image 0003 is another one: file:1 and file:2" in fault for fault in merged.faults] == [True] * refused


def test_rows_of_before_have_no_digest_and_say_nothing(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    folder = finished(tmp_path / "b").folder
    reseal(folder, rows_of(folder).assign(digest="file:1"))
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m").faults == []
    assert main(["verify", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "digest" not in pd.read_parquet(next((tmp_path / "m").glob("*/rows.parquet"))).columns
