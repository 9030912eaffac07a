"""Merged results of several folders: the bytes of an undisturbed run, or a refusal that names both folders."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import config
from stored import ENVIRONMENT, finished, half, plan, result, rows

import eigencam.store.locks
import eigencam.store.merge
from eigencam.commands.main import main
from eigencam.running.run import run
from eigencam.store.examine import published
from eigencam.store.locks import NoLocksError
from eigencam.store.merge import merge
from eigencam.store.reader import read, read_all
from eigencam.store.records import Result
from eigencam.store.schema import CONFIG, IDENTITY, ROWS, SUMMARY
from eigencam.store.seal import read_json, write_json

SMALL = ["dataset.count=12", "batch_size=4", "timing=false", "method=[gradcam,center_box]", "evaluator=[localization]"]


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of all files that are the same in every run, and of parts."""
    kept = (IDENTITY, ROWS, SUMMARY)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and (path.name in kept or path.parent.name == "parts")
    }


def some(root: Path, first: int, last: int, of: int = 6, iou: float = 0.6, host: str = "") -> Result:
    """A result with rows of some images, as a shard of another machine leaves it."""
    made = result(root)
    made.open("a: 1\n", {**ENVIRONMENT, "host": host}, plan=plan(of))
    made.add(rows(last - first, start=first, iou=iou).to_dict("records"))  # type: ignore[arg-type]
    made.flush()
    made.close()
    return made


@pytest.mark.full
def test_shards_of_machines_without_a_common_disk_give_the_bytes_of_one_run(tmp_path: Path) -> None:
    run(config(tmp_path / "whole", *SMALL))
    sources = []
    for k in (3, 1, 2):
        run(config(tmp_path / f"machine{k}", *SMALL, f"shard={k}/3"))
        sources.append(tmp_path / f"machine{k}")
    before = [contents(source) for source in sources]
    merged = merge(sources, tmp_path / "merged")
    assert (merged.complete, merged.unfinished, merged.faults) == (2, [], [])
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert [contents(source) for source in sources] == before
    for stored in read_all(tmp_path / "merged", hashed=True):
        assert sorted(run.rows for run in stored.runs) == [((0, 3),), ((4, 7),), ((8, 11),)]
        assert stored.folder.joinpath(CONFIG).is_file()
    assert main(["merge", *map(str, sources), "--into", str(tmp_path / "merged")]) == 0
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_a_merge_needs_no_torch_and_takes_one_part_after_the_other(tmp_path: Path) -> None:
    some(tmp_path / "a", 0, 2, host="a")
    some(tmp_path / "b", 2, 4, host="b")
    made = some(tmp_path / "c", 3, 6, host="c")
    merged = merge([tmp_path / "a", made.folder.parent.parent / "b" / made.folder.name], tmp_path / "m")
    assert merged.unfinished == [f"{tmp_path / 'm' / made.folder.name}: 4 images so far"]
    assert merge([tmp_path / "c"], tmp_path / "m").complete == 1
    stored = read(tmp_path / "m" / made.folder.name, hashed=True)
    assert stored
    assert stored.state == "done"
    assert stored.rows()["image"].tolist() == [f"{k:04d}" for k in range(6)]
    assert not (stored.folder / "parts").exists()
    whole = finished(tmp_path / "whole")
    assert (stored.folder / ROWS).read_bytes() == (whole.folder / ROWS).read_bytes()


@pytest.mark.parametrize("complete", [False, True])
def test_two_rows_of_one_image_are_refused_with_both_folders(
    tmp_path: Path, complete: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    one = finished(tmp_path / "a") if complete else some(tmp_path / "a", 0, 4)
    other = some(tmp_path / "b", 3, 6, iou=0.25)
    finished(tmp_path / "b", method={"name": "Other", "version": 1})
    before = contents(tmp_path)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(tmp_path / "m")]) == 1
    said = capsys.readouterr().out
    assert f"{one.folder} and {other.folder} contradict each other: image 0003: iou 0.6" in said
    assert "and 0.25" in said
    assert "1 complete results" in said  # the other method's
    assert {k: v for k, v in contents(tmp_path).items() if not k.startswith("m/")} == before
    assert not (tmp_path / "m" / one.folder.name).exists()


def test_an_image_that_a_complete_result_left_out_is_a_contradiction(tmp_path: Path) -> None:
    one = finished(tmp_path / "a", n=5)
    some(tmp_path / "b", 4, 6)
    (fault,) = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m").faults
    assert fault.startswith(one.folder.name)
    assert "image 0005 was left out in the first" in fault


def test_what_is_damaged_is_named_and_the_rest_merged(tmp_path: Path) -> None:
    made = some(tmp_path / "a", 0, 3)
    (part,) = (made.folder / "parts").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    some(tmp_path / "b", 0, 6)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert merged.complete == 1
    assert [str(part) in fault for fault in merged.faults] == [True]
    assert part.exists()
    assert merge([tmp_path / "a"], tmp_path / "n").complete == 0
    whole = finished(tmp_path / "whole")
    (run_file,) = (whole.folder / "runs").iterdir()
    run_file.write_text("torn")
    assert merge([tmp_path / "whole"], tmp_path / "o").complete == 1


def test_images_that_could_not_be_decoded_are_left_out_of_the_whole(tmp_path: Path) -> None:
    for name, kept in (("a", range(3)), ("b", range(3, 5))):
        made = some(tmp_path / name, kept[0], kept[-1] + 1)
        made.add_bad("bad_images", "0005", f"{name}: no image")
        made.flush()
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    (stored,) = read_all(tmp_path / "m")
    assert stored.summary
    assert (stored.summary.n, stored.summary.bad_images) == (5, {"0005": "b: no image"})


def test_a_result_of_no_image_at_all_is_not_published(tmp_path: Path) -> None:
    for name in "ab":
        made = result(tmp_path / name)
        made.open("a: 1\n", ENVIRONMENT, plan=plan(2))
        for k in range(2):
            made.add_bad("bad_images", f"{k:04d}", "no image")
        made.flush()
        made.close()
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert merged.complete == 0
    assert "all 2 are left out; no image" in merged.faults[0]
    assert not list(tmp_path.glob("*/*/metrics.json"))


def test_an_evaluator_that_is_not_trusted_keeps_its_rows(tmp_path: Path) -> None:
    made = some(tmp_path / "a", 0, 6)
    identity = {**made.identity, "evaluator": {"target": "os.path.join", "source": ""}}
    other = Result(tmp_path / "a", made.names, identity)
    other.open("a: 1\n", ENVIRONMENT, plan=plan(1))
    other.add(rows(1).to_dict("records"))  # type: ignore[arg-type]
    other.flush()
    other.close()
    merged = merge([tmp_path / "a"], tmp_path / "m")
    assert merged.complete == 1
    assert ["--trust os.path" in fault for fault in merged.faults] == [True]
    stored = read(tmp_path / "m" / other.folder.name)
    assert stored
    assert [count for _, count in stored.parts()] == [1]


def test_rows_are_compared_a_part_of_the_images_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigencam.store.merge, "HELD", 2)
    some(tmp_path / "a", 0, 4)
    some(tmp_path / "b", 2, 5)
    made = some(tmp_path / "c", 2, 3, iou=0.7)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert merged.unfinished == [f"{tmp_path / 'm' / made.folder.name}: 5 images so far"]
    (fault,) = merge([tmp_path / "m", tmp_path / "c"], tmp_path / "n").faults
    assert "image 0002: iou 0.6 and 0.7" in fault
    finished(tmp_path / "d")
    assert merge([tmp_path / "d", tmp_path / "b"], tmp_path / "o").complete == 1


def test_what_a_shard_writes_while_a_merge_reads_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some(tmp_path / "m", 0, 2)
    some(tmp_path / "a", 2, 4)
    agreed = eigencam.store.merge._agreed

    def slow(*given: Any) -> Any:
        some(tmp_path / "m", 4, 5)  # its parts are merged with those just read
        return agreed(*given)

    monkeypatch.setattr(eigencam.store.merge, "_agreed", slow)
    merge([tmp_path / "a"], tmp_path / "m")
    monkeypatch.undo()
    some(tmp_path / "b", 5, 6)
    assert merge([tmp_path / "b"], tmp_path / "m").complete == 1


def test_a_folder_without_results_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["merge", str(tmp_path / "empty"), "--into", str(tmp_path / "m")]) == 2
    assert f"{tmp_path / 'empty'}: no results there" in capsys.readouterr().err


@pytest.mark.full
def test_without_locks_each_process_writes_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(tmp_path / "whole", *SMALL))

    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(eigencam.store.locks, "_flock", none)
    common = tmp_path / "common"
    with pytest.raises(NoLocksError, match="own_folder=true"):
        run(config(common, *SMALL))
    shutil.rmtree(common)
    said: list[str] = []
    for k in (1, 2):
        monkeypatch.setattr("socket.gethostname", lambda k=k: f"machine{k}")
        run(config(common, *SMALL, f"shard={k}/2", "own_folder=true"), say=said.append)
    assert any(f"eigencam merge {common}/*/ --into DIR" in line for line in said)
    assert len(list(common.iterdir())) == 2
    merged = merge(sorted(common.iterdir()), tmp_path / "merged")
    assert merged.complete == 2
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_a_table_of_older_parts_is_completed_by_a_run_not_by_a_merge(tmp_path: Path) -> None:
    half(tmp_path / "a")
    (fault,) = merge([tmp_path / "a"], tmp_path / "m").faults
    assert "no run recorded the number of images" in fault


def test_the_run_that_made_each_row_is_noted_however_often_it_is_written(tmp_path: Path) -> None:
    made = some(tmp_path / "a", 0, 6)
    (path,) = (made.folder / "runs").iterdir()
    write_json(path, read_json(path) | {"rows": [[0, 5]]})
    some(tmp_path / "b", 0, 6)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    (stored,) = read_all(tmp_path / "m")
    assert [run.rows for run in stored.runs if run.rows] == [((0, 5),)]
    assert published(stored.folder).n == 6
    assert not {"_position", "_run", "_fitted"} & set(pd.read_parquet(stored.folder / ROWS).columns)
