"""Images in Parquet files and tar shards, written by the usual libraries."""

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_files import lines
from PIL import Image

from eigencam.datasets.annotation_cache import FileIds, Files, Names, kept
from eigencam.datasets.base import BadTruthError
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.parquet import read_parquet
from eigencam.datasets.tars import read_webdataset

SHARED = os.environ.get("EIGENCAM_SHARED", "")
needs_shared = pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set: real images are not here")
NAMES = ["tench", "goldfish", "shark"]
LABELS = [0, 2, 1, 1, 0, 2, 2, 0]
WRITE_HUB = """
import json, sys
import datasets
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
told = json.load(open(sys.argv[1]))
features = {"image": Image(), "label": ClassLabel(names=told["names"])}
rows = {"image": told["files"], "label": told["labels"]}
if told.get("boxes"):
    names = Sequence(ClassLabel(names=told["names"]))
    features["objects"] = {"bbox": Sequence(Sequence(Value("float32"), length=4)), "category": names}
    rows["objects"] = told["boxes"]
made = Dataset.from_dict(rows, features=Features(features))
shards = told["shards"]
for k in range(shards):
    part = made.shard(shards, k, contiguous=True)
    part = part.map(lambda row: row)  # the files' bytes come in, as push_to_hub does it
    table = part.with_format("arrow")[:]
    embed = datasets.table.embed_table_storage(table)
    part = Dataset(embed, info=part.info)
    part.to_parquet(f"{told['out']}/validation-{k:05}-of-{shards:05}.parquet", batch_size=told["group"])
"""


def write_hub(
    folder: Path, files: Sequence[Path], labels: list[int], shards: int = 2, group: int = 3, **more: Any
) -> Path:
    """Parquet files written by the library `datasets`, in a process in which `datasets` is that library."""
    pytest.importorskip("webdataset")  # the two come together
    folder.mkdir(parents=True, exist_ok=True)
    told = {"files": [str(f) for f in files], "labels": labels, "names": NAMES, "shards": shards, "group": group}
    (folder.parent / "told.json").write_text(json.dumps(told | {"out": str(folder)} | more))
    command = [sys.executable, "-P", "-c", WRITE_HUB, str(folder.parent / "told.json")]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hf")},
    )
    assert done.returncode == 0, done.stderr
    return folder


def write_tars(folder: Path, files: Sequence[Path], labels: list[int], size: int = 3) -> Path:
    """Tar shards written by the library `webdataset`."""
    wds = pytest.importorskip("webdataset")
    folder.mkdir(parents=True, exist_ok=True)
    with wds.ShardWriter(str(folder / "val-%06d.tar"), maxcount=size, verbose=0) as sink:
        for path, label in zip(files, labels, strict=True):
            suffix = path.suffix.lower().lstrip(".")
            sink.write({"__key__": path.stem, suffix: path.read_bytes(), "cls": label, "json": {"label": label}})
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EIGENCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_photos(folder: Path) -> list[Path]:
    files = []
    folder.mkdir()
    for k in range(8):
        path = folder / f"{k}.{'png' if k % 2 else 'jpeg'}"
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (20 + k, 30, 3), np.uint8)).save(path)
        files.append(path)
    return files


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos as written by the library `datasets`, with boxes, one of which is wrong."""
    root = tmp_path_factory.mktemp("hub")
    boxes = [{"bbox": [[1, 2, 5, 6]] * (k % 3), "category": [k % 3] * (k % 3)} for k in range(8)]
    boxes[4]["bbox"] = [[4, 4, -3, 2]]
    return write_hub(root / "packed", write_photos(root / "photos"), LABELS, boxes=boxes)


@pytest.mark.parametrize("kind", ["parquet", "tars"])
def test_the_images_and_labels_are_those_of_the_files(tmp_path: Path, photos: list[Path], hub: Path, kind: str) -> None:
    if kind == "parquet":
        data = read_parquet(hub)
    else:
        data = read_webdataset(write_tars(tmp_path / "packed", photos, LABELS), classes=NAMES)
    assert list(data.ids) == [path.stem for path in photos]
    assert data.classes == tuple(NAMES)
    for i in (3, 0, 7, 7, 1, 6, 2, 5, 4):  # forwards and backwards
        with Image.open(photos[i]) as image:
            assert np.array_equal(data.image(i), np.asarray(image.convert("RGB")))
        truth = data.truth(i)
        assert (truth.label, truth.size, len(truth.boxes)) == (LABELS[i], (20 + i, 30), 0)
    copy = pickle.loads(pickle.dumps(data))  # as a loader process receives it
    assert np.array_equal(copy.image(4), data.image(4))
    assert copy.identity() == data.identity()


@pytest.mark.parametrize("kind", ["parquet", "tars"])
def test_a_damaged_image_is_named_by_its_place(tmp_path: Path, photos: list[Path], kind: str) -> None:
    photos[5].write_bytes(photos[5].read_bytes()[:120])
    if kind == "parquet":
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in photos]
        data = read_parquet(parquet(tmp_path / "packed/validation.parquet", image=images, label=LABELS))
    else:
        data = read_webdataset(write_tars(tmp_path / "packed", photos, LABELS))
    with pytest.raises(ValueError, match=r"packed/val.*(row 5|byte \d+)"):
        data.image(5)
    assert data.image(6).shape == (26, 30, 3)


def test_boxes_of_a_column_and_what_is_wrong_with_them(hub: Path) -> None:
    data = read_parquet(hub, boxes="objects.bbox", box_labels="objects.category", box_format="xywh", box_origin=0)
    assert data.truth(2).boxes.tolist() == [[1, 2, 5, 7]] * 2
    assert data.truth(2).box_labels.tolist() == [2, 2]
    assert len(data.truth(3).boxes) == 0
    assert list(data.faults) == ["4"]
    with pytest.raises(BadTruthError, match=r"validation-00001-of-00002.parquet, row 0: 4: box \[4.0, 4.0, 0.0, 5.0\]"):
        data.truth(4)
    with pytest.raises(ValueError, match="box_format=None"):
        read_parquet(hub, boxes="objects.bbox")


@pytest.mark.full
@needs_shared
def test_real_images_give_the_truth_of_the_loose_files(tmp_path: Path) -> None:
    loose = Ilsvrc(Path(SHARED) / "realdata", count=40)
    names = list(map(str, range(1000)))
    labels = loose.annotation.labels.tolist()
    truth = Path(SHARED) / "realdata"
    hub = write_hub(tmp_path / "hub", loose.paths, labels, names=names, group=7)
    tars = write_tars(tmp_path / "tars", loose.paths, labels, size=9)
    for data in (read_parquet(hub, truth=truth), read_webdataset(tars, truth=truth)):
        assert list(data.ids) == loose.ids
        assert data.class_space == "imagenet"
        for i in range(40):
            a, b = data.truth(i), loose.truth(i)
            assert (a.image_id, a.size, a.label, a.foreground) == (b.image_id, b.size, b.label, b.foreground)
            assert np.array_equal(a.boxes, b.boxes)
            assert data.digest(i) == loose.digest(i)
            if i % 5 == 0:
                assert np.array_equal(data.image(i), loose.image(i))
    wrong = write_tars(tmp_path / "wrong", loose.paths, [*labels[:-1], (labels[-1] + 1) % 1000])
    with pytest.raises(ValueError, match=r"1 of 40 images have another label"):
        read_webdataset(wrong, truth=truth)


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def png() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (4, 3)).save(made, "PNG")
    return made.getvalue()


def test_names_as_labels_and_images_without_a_path(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a/validation.parquet", image=[png()] * 3, kind=["dog", None, "cat"])
    data = read_parquet(tmp_path / "a", label="kind")
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [1, -1, 0]
    assert list(data.ids) == ["validation/0", "validation/1", "validation/2"]
    assert data.truth(1).foreground == "any"
    assert read_parquet(path, label=None).labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda p: parquet(p / "train.parquet", image=[png()], label=[0]), {}, r"no Parquet file of the split.*train"),
        (
            lambda p: parquet(p / "validation.parquet", photo=[png()], label=[0]),
            {},
            "no column 'image'; there are photo",
        ),
        (lambda p: parquet(p / "validation.parquet", image=[png()], y=[0]), {}, "no column 'label'"),
        (lambda p: parquet(p / "validation.parquet", image=[png()], label=[0.5]), {}, "labels of type double"),
        (lambda p: (p / "validation.parquet").write_bytes(b"PAR1nonsense"), {}, "validation.parquet"),
        (lambda p: parquet(p / "validation.parquet", image=[png()], label=[0]), {"revision": "main"}, "is on disk"),
        (
            lambda p: [parquet(p / f"validation-{k}.parquet", image=[png()], label=[k]) for k in (0, "cat")],
            {},
            r"validation-cat\.parquet: labels of type string; in .*validation-0\.parquet they are int64",
        ),
        (
            lambda p: parquet(p / "validation.parquet", image=[png()], label=[0], at=[[0.0, 0, 1, 1]]),
            {"boxes": "at", "box_format": "xyxy", "box_origin": 0, "box_end": "inclusive"},
            "a column of list<.*: double>; expected: lists of boxes",
        ),
    ],
)
def test_what_is_refused_of_parquet(tmp_path: Path, make: Any, options: dict[str, Any], words: str) -> None:
    (tmp_path / "d").mkdir()
    make(tmp_path / "d")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_parquet(tmp_path / "d", **options)


@pytest.mark.parametrize("revision", [None, "main", "49e2ee2"])
def test_a_dataset_of_the_hub_needs_a_commit(revision: str | None) -> None:
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        read_parquet("ILSVRC/imagenet-1k", revision=revision)


def test_offline_the_hub_is_named_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"ILSVRC/imagenet-1k at 0+ could not be downloaded: no network.*dataset\.path"
    ):
        read_parquet("ILSVRC/imagenet-1k", revision="0" * 40)


def tar(path: Path, **members: bytes) -> Path:
    import tarfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as made:
        for name, content in members.items():
            about = tarfile.TarInfo(name.replace("__", "/").replace("_", ".", 1))
            about.size = len(content)
            made.addfile(about, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        ({"a_png": png()}, {}, r"a\.png: no member 'cls' beside it; there are png"),
        ({"a_png": png(), "a_cls": b"one"}, {}, r"'one' is no whole number"),
        ({"a_png": png(), "a_json": b"{}"}, {"label": "json:label"}, "no 'label'"),
        ({"a_cls": b"1"}, {}, "no image beside it; there are cls"),
        ({"a_cls": b"1"}, {"label": None}, "no image in it"),
        ({"a_png": png(), "a_cls": b"-7"}, {}, "label -7; allowed"),
        ({"a_png": png(), "a_jpg": png(), "a_cls": b"1"}, {}, "2 images in one sample, png, jpg; allowed is one"),
    ],
)
def test_what_is_refused_of_tars(
    tmp_path: Path, members: dict[str, bytes], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read_webdataset(tar(tmp_path / "a.tar", **members), **options)


def test_a_mask_beside_the_image_is_no_second_image(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for name, content in (("a.seg.png", b"mask"), ("a.png", png()), ("a.cls", b"1")):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            made.addfile(about, io.BytesIO(content))
    assert read_webdataset(tmp_path / "a.tar").image(0).shape == (3, 4, 3)


def test_tars_by_a_range_and_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for k in range(3):
        tar(tmp_path / f"v-{k:03}.tar", **{f"{'xyz'[k]}__a_png": png(), f"{'xyz'[k]}__a_cls": b"1"})
    data = read_webdataset(tmp_path / "v-{000..002}.tar")
    assert list(data.ids) == ["x/a", "y/a", "z/a"]
    with pytest.raises(FileNotFoundError, match=r"1 of 4 tars are missing.*v-003"):
        read_webdataset(tmp_path / "v-{000..003}.tar")
    (tmp_path / "v-001.tar").write_bytes((tmp_path / "v-000.tar").read_bytes())
    with pytest.raises(ValueError, match=r"two images are called 'x/a': .*v-000.tar and .*v-001.tar"):
        read_webdataset(tmp_path / "v-{000..002}.tar")


def test_a_broken_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match=r"a\.tar.*a tar of images"):
        read_webdataset(tmp_path / "a.tar")


def test_what_was_read_is_kept_until_a_source_changes(tmp_path: Path, own_cache: Path) -> None:
    source = tmp_path / "list.txt"
    lines(source, "a", "b")
    read: list[int] = []

    def make() -> pa.Table:
        read.append(1)
        return pa.table({"name": source.read_text().split()})

    assert [kept("t", [source], make, version=1)["name"].to_pylist() for _ in range(3)] == [["a", "b"]] * 3
    assert len(read) == 1
    [file] = own_cache.iterdir()
    content = bytearray(file.read_bytes())
    for damaged in (bytes(content[:-5]), b"", bytes(content[:40]) + bytes([content[40] ^ 1]) + bytes(content[41:])):
        file.write_bytes(damaged)
        before = len(read)
        assert kept("t", [source], make, version=1)["name"].to_pylist() == ["a", "b"]
        assert len(read) == before + 1
    os.utime(source, ns=(1, 1))
    kept("t", [source], make, version=1)
    kept("t", [source], make, version=2)
    assert len(read) == 6


def test_without_a_place_to_keep_it_is_read_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EIGENCAM_CACHE", str(tmp_path / "file/below"))
    assert kept("t", [], lambda: pa.table({"a": [1]}), version=1).num_rows == 1


def test_packed_names_are_a_sequence() -> None:
    names = Names(f"n{k}" for k in range(70_000))
    assert len(names) == 70_000
    assert names[69_999] == names[-1] == "n69999"
    assert list(names[3:9:2]) == ["n3", "n5", "n7"]
    assert names == [f"n{k}" for k in range(70_000)]
    assert names == Names(list(names))
    assert names[:2] != names[:3]
    assert "n12" in names
    assert names.texts.nbytes < 15 * len(names)
    assert pickle.loads(pickle.dumps(names[:3])) == ["n0", "n1", "n2"]


def test_packed_files_are_a_sequence_and_their_ids_are_made_when_asked_for(tmp_path: Path) -> None:
    odd = os.fsdecode(b"b\xff.jpg")
    paths = [tmp_path / name for name in ("a.jpg", "q/b.v2.JPEG", odd, "q/c.png")]
    files = Files(iter(paths))
    assert list(files) == paths
    assert [files[k] for k in range(-4, 4)] == paths * 2
    assert files[1:3] == paths[1:3]
    ids = FileIds(files, tmp_path)
    assert list(ids) == [ids[k] for k in range(4)] == ["a", "q/b.v2", odd[:2], "q/c"]
    assert ids[1:] == list(ids)[1:]
    assert ids == list(ids)
    assert "q/c" in ids
    assert len(files.folders) == 2
    assert list(Files(())) == []
