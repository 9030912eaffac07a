"""Two valid parts of one result with different rows for an image: named, neither believed, computed again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from runs import config
from stored import ENVIRONMENT, finished, plan, result, rows

from eigencam.running.run import run
from eigencam.store import contradictions
from eigencam.store.examine import published
from eigencam.store.finish import differences
from eigencam.store.merge import merge
from eigencam.store.parts import Parts
from eigencam.store.reader import is_result, read
from eigencam.store.records import Result
from eigencam.store.schema import ROWS, SUMMARY
from eigencam.store.shards import Shard
from eigencam.store.summing import summed_up
from eigencam.store.verify import faults


def part(root: Path, shard: str, first: int, last: int, iou: float = 0.6, of: int = 6) -> Result:
    """A result to which one shard has added rows of some images."""
    made = result(root)
    made.open("a: 1\n", ENVIRONMENT, Shard.parse(shard), plan(of))
    made.add(rows(last - first, start=first, iou=iou).to_dict("records"))  # type: ignore[arg-type]
    made.flush()
    made.close()
    return made


def test_the_next_run_names_both_parts_and_computes_only_that_image_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contradictions, "HELD", 1)
    part(tmp_path, "1/3", 0, 3)
    part(tmp_path, "2/3", 2, 5, iou=0.5)  # images 2 to 4, of which 2 is in the first part, too
    made = part(tmp_path, "3/3", 4, 6, iou=0.5)  # image 4 is in the second part, with equal rows
    before = {path.name for path in made.parts.folder.glob("*.parquet")}
    stored = read(made.folder, hashed=True)
    assert stored is not None
    (said,) = faults(stored)
    assert "1of3-" in said
    assert " and 2of3-" in said
    assert said.endswith("contradict each other: image 0002: iou 0.6 and 0.5")
    assert {path.name for path in made.parts.folder.glob("*.parquet")} == before  # a reader moves nothing
    again = result(tmp_path)
    again.open("a: 1\n", ENVIRONMENT, plan=plan(6))
    wanted = plan(6)
    assert np.flatnonzero(again.lacking(wanted.positions)).tolist() == [2]
    assert len(again.repaired) == 2
    assert all("image 0002: iou 0.6 and 0.5; its other rows are kept; set aside in" in line for line in again.repaired)
    assert len(list((made.folder / "damaged").iterdir())) == 2
    again.add(rows(1, start=2, iou=0.55).to_dict("records"))  # type: ignore[arg-type]
    again.flush()
    with again.finishing():
        gathered = again.gathered()
        assert gathered is not None
        again.publish(gathered, summed_up(_evaluator(tmp_path), gathered.rows)[0])
    again.close()
    assert published(made.folder).n == 6
    assert pd.read_parquet(made.folder / ROWS)["iou"].tolist() == [0.6, 0.6, 0.55, 0.5, 0.5, 0.5]


@pytest.mark.full
def test_a_run_after_a_contradiction_has_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    small = ["dataset.count=6", "batch_size=2", "timing=false", "method=[center_box]", "evaluator=[localization]"]
    run(config(tmp_path / "whole", *small))
    run(config(tmp_path / "r", *small, "shard=1/2"))
    (folder,) = (path for path in (tmp_path / "r").iterdir() if is_result(path.name))
    parts = Parts(folder / "parts", folder.name.rsplit("-", 1)[-1], "copied")
    (table,) = parts.tables()[0]
    rows = table.to_pandas()
    rows.loc[1, "iou"] += 0.25
    parts.replace([], pa.Table.from_pandas(rows, preserve_index=False))
    said: list[str] = []
    run(config(tmp_path / "r", *small), say=said.append)
    assert sum("contradicts copied-" in line and "iou" in line for line in said) == 1
    assert sum("its other rows are kept; set aside in" in line for line in said) == 2
    for name in (ROWS, SUMMARY):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / folder.name / name).read_bytes()


def test_summing_up_and_merging_refuse_what_contradicts(tmp_path: Path) -> None:
    part(tmp_path / "a", "1/2", 0, 4)
    made = part(tmp_path / "a", "2/2", 3, 6, iou=0.5)
    merged = merge([tmp_path / "a"], tmp_path / "m")
    assert merged.complete == 0
    (fault,) = merged.faults
    assert "contradict each other: image 0003: iou 0.6 and 0.5" in fault
    open_again = result(tmp_path / "a")
    open_again.open("a: 1\n", None, plan=plan(6))
    with open_again.finishing():
        assert open_again.gathered() is None
    open_again.close()
    assert len(open_again.repaired) == 2
    assert read(made.folder, hashed=True).state == "partial"  # type: ignore[union-attr]


def test_equal_rows_of_two_parts_are_one(tmp_path: Path) -> None:
    part(tmp_path / "a", "1/2", 0, 4)
    part(tmp_path / "a", "2/2", 2, 6)
    assert merge([tmp_path / "a"], tmp_path / "m").complete == 1
    whole, made = finished(tmp_path / "w"), next((tmp_path / "m").iterdir())
    assert (made / ROWS).read_bytes() == (whole.folder / ROWS).read_bytes()


def test_each_image_has_its_own_difference() -> None:
    mine = pd.DataFrame({"image": ["a", "b", "c", "d"], "label": [0, 1, 2, 3], "iou": [0.1, 0.2, np.nan, 0.4]})
    other = mine.assign(label=[0, 5, 2, 3], iou=[0.1, 0.2, np.nan, 0.5])
    assert differences(mine, other) == {"b": "image b: rows of other classes", "d": "image d: iou 0.4 and 0.5"}
    assert differences(mine, mine[::-1]) == {}


def _evaluator(root: Path) -> object:
    from eigencam.store.trust import PACKAGED, rebuilt

    return rebuilt(result(root).identity["evaluator"], "evaluator", PACKAGED)
