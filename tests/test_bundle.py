"""Bundles: results of another group are verified, merged, shown as claimed, and made again."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import config
from stored import finished, reseal, restated, rows

from eigencam.commands.main import main
from eigencam.evaluation.localization import Localization
from eigencam.reporting import reproduce_results
from eigencam.reporting.reproduce import Ran
from eigencam.running.run import run
from eigencam.store.bundle import BundleError, unpacked
from eigencam.store.claim import CLAIM, Claim
from eigencam.store.finish import first_difference
from eigencam.store.reader import read, read_all
from eigencam.store.seal import digest, read_json, write_json
from eigencam.store.summing import summed_up


def said(capsys: pytest.CaptureFixture[str], *argv: object, status: int = 0) -> str:
    assert main([str(word) for word in argv]) == status, capsys.readouterr()
    out, err = capsys.readouterr()
    return out + err


@pytest.fixture
def theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A bundle of one result, made in a folder that no longer exists."""
    finished(tmp_path / "there")
    said(capsys, "bundle", tmp_path / "there", "--out", tmp_path / "theirs.zip")
    (tmp_path / "there").rename(tmp_path / "gone")
    return tmp_path / "theirs.zip"


def test_a_bundle_is_verified_merged_and_shown_as_claimed(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, "verify", theirs)
    assert "1 results, 1 of them complete, 1 claimed by others and not made again here; no faults" in out
    finished(tmp_path / "ours", method={"name": "Other", "version": 1})
    assert "2 complete results" in said(capsys, "merge", theirs, tmp_path / "ours", "--into", tmp_path / "both")
    [mine, other] = sorted(read_all(tmp_path / "both"), key=lambda stored: stored.claim is not None)
    assert mine.claim is None
    assert other.claim
    for style in ("terminal", "markdown", "latex", "html"):
        table = said(capsys, "table", "--results", tmp_path / "both", "--format", style)
        assert "laimed by others, not made again here: " in table
    assert "claimed by others, not made again here; bundle " in said(capsys, "card", other.folder)
    gone = next((tmp_path / "gone").iterdir())
    for name in ("rows.parquet", "metrics.json", "identity.json"):
        assert (other.folder / name).read_bytes() == (gone / name).read_bytes()
    said(capsys, "merge", tmp_path / "both", "--into", tmp_path / "third")  # a claim goes with the result
    assert sum(stored.claim is not None for stored in read_all(tmp_path / "third")) == 1
    said(capsys, "merge", tmp_path / "gone", "--into", tmp_path / "third")  # it has been computed here
    assert not any(stored.claim for stored in read_all(tmp_path / "third"))


def rewritten(bundle: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write the bundle with other files in it."""
    with zipfile.ZipFile(bundle) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    change(files)
    made = bundle.with_name("tampered.zip")
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made


def named(files: dict[str, bytes], end: str) -> str:
    return next(name for name in files if name.endswith(end))


def flip(end: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        content = bytearray(files[name := named(files, end)])
        content[len(content) // 2] ^= 1
        files[name] = bytes(content)

    return change


@pytest.mark.parametrize("end", ["rows.parquet", "metrics.json", "identity.json", "config.yaml", "card.txt", ".json"])
def test_a_changed_file_is_refused_by_name(theirs: Path, end: str) -> None:
    bundle = rewritten(theirs, flip(end))
    with pytest.raises(BundleError, match=end.replace(".", r"\.")), unpacked(bundle):
        pass


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda files: files.pop(named(files, "rows.parquet")), r"rows\.parquet is missing"),
        (lambda files: files.update({"x/y.py": b""}), r"x/y\.py is in it, and bundle\.json does not name it"),
        (lambda files: files.pop("bundle.json"), "it is no bundle"),
        (lambda files: files.update({"bundle.json": b"{}"}), "no seal"),
    ],
)
def test_a_file_more_or_less_is_refused(theirs: Path, change: Callable[[dict[str, bytes]], None], word: str) -> None:
    with pytest.raises(BundleError, match=word), unpacked(rewritten(theirs, change)):
        pass


def remade(files: dict[str, bytes], bundle: Path) -> Path:
    """Write files as a bundle whose manifest fits them, as somebody with this program could."""
    made = bundle.with_name("remade")
    made.mkdir()
    (made / "old.json").write_bytes(files.pop("bundle.json"))
    entries = {name: {"bytes": len(content), "blake2b": digest(content)} for name, content in files.items()}
    write_json(made / "bundle.json", {**read_json(made / "old.json"), "files": entries})
    with zipfile.ZipFile(bundle.with_name("remade.zip"), "w") as archive:
        archive.write(made / "bundle.json", "bundle.json")
        for name, content in files.items():
            archive.writestr(name, content)
    return bundle.with_name("remade.zip")


def sealed_again(end: str, **changes: Any) -> Callable[[dict[str, bytes], Path], None]:
    """Change a JSON file of a bundle, and seal it again."""

    def change(files: dict[str, bytes], scratch: Path) -> None:
        name = named(files, end)
        scratch.write_bytes(files[name])
        content = dict(read_json(scratch))
        for key, value in changes.items():
            content[key] = value(content[key]) if callable(value) else value
        write_json(scratch, content)
        files[name] = scratch.read_bytes()

    return change


def swapped(files: dict[str, bytes], _scratch: Path) -> None:
    one, other = (name for name in files if name.endswith("rows.parquet"))
    files[one], files[other] = files[other], files[one]


def without_runs(files: dict[str, bytes], _scratch: Path) -> None:
    folder = named(files, "rows.parquet").split("/")[0]
    for name in [name for name in files if name.startswith(f"{folder}/runs/")]:
        del files[name]


def renamed(files: dict[str, bytes], _scratch: Path) -> None:
    folder = named(files, "rows.parquet").split("/")[0]
    for name in [name for name in files if name.startswith(folder)]:
        files[name.replace(folder, f"{folder[:-10]}0123456789")] = files.pop(name)


def better(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*metrics[:-1], {**metrics[-1], "value": 99.0}]


@pytest.mark.parametrize(
    ("change", "reason", "left"),
    [
        (swapped, r"rows\.parquet: damaged: its content does not match the checksum in the summary", 0),
        (sealed_again("metrics.json", metrics=better), r"mean_iou: value 99\.0 stored, \d+\.\d+ from its rows", 1),
        (sealed_again("metrics.json", n=5), "n = 5, and its rows are of 6 images", 1),
        (sealed_again("identity.json", dtype="float64"), r"identity\.json: damaged: it is the identity of a folder", 1),
        (renamed, r"identity\.json: damaged: it is the identity of a folder", 1),
        (without_runs, r"row 0 \(image 0000\): no file in runs/ says which run computed it", 1),
    ],
)
def test_a_bundle_whose_manifest_fits_is_refused_by_what_it_contradicts(
    change: Callable[[dict[str, bytes], Path], None],
    reason: str,
    left: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished(tmp_path / "there")
    finished(tmp_path / "there", iou=0.3, method={"name": "Other", "version": 1})
    said(capsys, "bundle", tmp_path / "there", "--out", tmp_path / "theirs.zip")
    with zipfile.ZipFile(tmp_path / "theirs.zip") as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    change(files, tmp_path / "scratch.json")
    bundle = remade(files, tmp_path / "theirs.zip")
    for command in (["verify", bundle], ["merge", bundle, "--into", tmp_path / "ours"]):
        out = said(capsys, *command, status=1)
        assert re.search(rf"remade\.zip/data-net-method-localization-\w{{10}}.*{reason}", out)
    assert f"{left} complete results in " in out


def test_a_file_that_is_in_a_bundle_twice_or_cut_is_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.zip").write_bytes(theirs.read_bytes()[:-100])
    assert "cut.zip: no bundle" in said(capsys, "verify", tmp_path / "cut.zip", status=2)
    with zipfile.ZipFile(theirs, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("rows.parquet")), b"other")
    assert "rows.parquet is in it twice" in said(capsys, "merge", theirs, "--into", tmp_path / "ours", status=2)


@pytest.mark.parametrize(
    "name",
    [
        "../a-b-c-d-0123456789/rows.parquet",
        "a-b-c-d-0123456789/../x.json",
        "/etc/passwd",
        "a-b-c-d-0123456789/x.py",
        "a-b-c-d-0123456789/maps/../../x.npy",
        "a-b-c-d-0123456789/runs/../x.json",
    ],
)
def test_a_manifest_names_files_of_results_alone(tmp_path: Path, name: str) -> None:
    content = b"x"
    entry = {"bytes": 1, "blake2b": digest(content)}
    write_json(tmp_path / "bundle.json", {"format": 1, "made": "", "host": "", "files": {name: entry}})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "bundle.json", "bundle.json")
        archive.writestr(name, content)
    with pytest.raises(BundleError, match="is no file of a result"), unpacked(tmp_path / "b.zip"):
        pass


def test_a_bomb_and_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, entry = "a-b-c-d-0123456789/rows.parquet", {"bytes": 10, "blake2b": "0" * 32}
    write_json(tmp_path / "bundle.json", {"format": 1, "made": "", "host": "", "files": {name: entry}})
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "bundle.json", "bundle.json")
        archive.writestr(name, bytes(10**7))
    assert "more than the 10 bytes" in said(capsys, "verify", tmp_path / "b.zip", status=2)
    (tmp_path / "c.zip").write_text("no archive")
    assert "no bundle" in said(capsys, "merge", tmp_path / "c.zip", "--into", tmp_path / "m", status=2)
    assert "ends in .zip" in said(capsys, "bundle", tmp_path, "--out", "x.tar", status=2)


def forged(root: Path) -> Path:
    """A result with invented rows, and with metrics, seals and card that agree with them."""
    folder = finished(root).folder
    frame = rows(6, iou=0.9)
    reseal(folder, frame)
    return restated(folder, lambda _: None, metrics=summed_up(Localization(), frame)[0]["metrics"])


@pytest.mark.full
def test_what_is_made_up_consistently_stays_claimed_until_it_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, lie = tmp_path / "honest", tmp_path / "lie"
    finished(honest)
    forged(lie)
    for root in (honest, lie):
        said(capsys, "bundle", root, "--out", root.with_suffix(".zip"))
        assert "no faults" in said(capsys, "verify", root.with_suffix(".zip"))
        said(capsys, "merge", root.with_suffix(".zip"), "--into", tmp_path / f"with-{root.name}")

    def ran(commands: object, foreign: object, limit: object, say: object) -> Ran:
        finished(foreign.results)  # type: ignore[attr-defined]
        return Ran(1)

    monkeypatch.setattr(reproduce_results, "rerun", ran)
    out = said(capsys, "reproduce", tmp_path / "with-honest", "--out", tmp_path / "a")
    assert "1 results: 1 same" in out
    table = said(capsys, "table", "--results", tmp_path / "with-honest")
    assert "claimed by others, made again here the same: net/method" in table
    assert "no claimed result" in said(capsys, "reproduce", tmp_path / "with-honest", "--out", tmp_path / "b")
    out = said(capsys, "reproduce", tmp_path / "with-lie", "--out", tmp_path / "c", status=1)
    assert "different: " in out
    assert "mean_iou 90, 60 now; image 0000: iou 0.9 and 0.6" in out
    assert "made again here and came out different" in said(capsys, "table", "--results", tmp_path / "with-lie")
    together = said(capsys, "merge", tmp_path / "lie.zip", honest, "--into", tmp_path / "all", status=1)
    assert "contradict each other: image 0000: iou" in together
    assert "lie.zip/" in together


def test_a_claim_is_sealed(tmp_path: Path) -> None:
    folder = finished(tmp_path).folder
    Claim("0" * 32, "host", "2026-01-01T00:00:00Z").write(folder)
    stored = read(folder)
    assert stored
    assert str(stored.claim) == "claimed by others, not made again here"
    (folder / CLAIM).write_text((folder / CLAIM).read_text().replace('"again": ""', '"again": "same"'))
    damaged = read(folder)
    assert damaged
    assert damaged.state == "damaged"


@pytest.mark.full
def test_maps_of_a_bundle_give_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluator=[localization]", "batch_size=4"]
    run(config(tmp_path / "there", "method=[gradcam,eigencam]", *common), say=print)
    out = said(capsys, "bundle", tmp_path / "there", "--maps", "--out", tmp_path / "b.zip")
    assert out.count("20 maps, ") == 2
    said(capsys, "merge", tmp_path / "b.zip", "--into", tmp_path / "here")
    for stored in read_all(tmp_path / "here"):
        maps = [np.load(path) for path in (stored.folder / "maps").glob("*.npy")]
        assert {m.shape for m in maps} == {(14, 14)}
        assert sum(m.dtype == np.float16 for m in maps) > 10
        files = [f"method.files.folder={stored.folder / 'maps'}", "method.files.resize=false"]
        files += [f"method.files.class_specific={str(stored.names[2] == 'gradcam').lower()}"]
        job = run(config(tmp_path / stored.names[2], "method=[files]", *files, *common), say=print)
        [result] = job.results.values()
        assert not first_difference(stored.rows(), result.rows())
        assert len(result.rows()) == 20
        summary = result.summary
        assert summary
        assert stored.summary
        assert summary.metrics == stored.summary.metrics


@pytest.mark.full
def test_maps_are_kept_of_the_same_rows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(tmp_path / "r", "method=[random]", "evaluator=[localization]", "dataset.count=4"), say=print)
    [stored] = read_all(tmp_path / "r")
    frame = stored.rows()
    reseal(stored.folder, frame.assign(iou=frame["iou"] / 2))
    assert "recomputed rows differ: image" in said(capsys, "bundle", stored.folder, "--maps", "--out", tmp_path / "b.zip", status=2)  # fmt: skip  # noqa: E501
