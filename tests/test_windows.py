"""Rows of parts in the dataset's order, one window at a time: equal to sorting all of them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import ENVIRONMENT, plan, result, rows

from eigencam.evaluation.localization import Localization
from eigencam.store import image_positions, ordered_rows
from eigencam.store.finish import Plan
from eigencam.store.image_digests import KnownDigests
from eigencam.store.image_positions import Positions
from eigencam.store.ordered_rows import FITTED, POSITION, RUN, Windows, write_rows
from eigencam.store.parts import Parts
from eigencam.store.summing import summed_up


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_rows, "WINDOW", 7)
    monkeypatch.setattr(ordered_rows, "ROW_GROUP", 16)


def shuffled_parts(n: int, seed: int) -> list[pd.DataFrame]:
    """Rows of images with up to three classes, in parts in any order, some of them twice."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n), rng.integers(1, 4, n))
    label = pd.Series(place).groupby(place).cumcount().to_numpy()
    columns: dict[str, Any] = {
        "image": [f"i{k}" for k in place],
        "label": label,
        "list": list(rng.random((len(place), 3))),
        POSITION: place,
        RUN: rng.choice(np.array(["a", "b"]), len(place)),
        FITTED: place % 5 == 0,
    }
    frame = pd.DataFrame(columns).sample(frac=1, random_state=seed)
    cuts = [frame.iloc[: len(frame) // 3], frame.iloc[len(frame) // 4 : len(frame) // 2], frame.iloc[len(frame) // 3 :]]
    return [part.reset_index(drop=True) for part in cuts]


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_what_sorting_all_rows_gives(tmp_path: Path, seed: int) -> None:
    n, parts = 40, shuffled_parts(40, seed)
    if seed == 3:  # a column that only some parts have
        parts[1]["later"] = 1.5
    files = [tmp_path / f"{k}.parquet" for k in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), file, row_group_size=5)
    found = Windows.of(files, n, Positions([f"i{k}" for k in range(n)]), asked={"i3", "x"})
    made_by = write_rows(found.tables(), tmp_path / "rows.parquet")
    wanted = pd.concat(parts, ignore_index=True).sort_values([POSITION, "label"], kind="stable", ignore_index=True)
    wanted = wanted.drop_duplicates(["image", "label"], ignore_index=True)
    written = pd.read_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(written, wanted.drop(columns=[POSITION, RUN, FITTED]), check_dtype=seed != 3)
    assert pq.ParquetFile(tmp_path / "rows.parquet").metadata.row_group(0).num_rows == 16
    assert (found.seen.all(), found.named) == (True, {"i3"})
    assert found.fitted.sum() == wanted.loc[wanted[FITTED], "image"].nunique()
    for run, stretches in made_by.items():
        numbers = np.concatenate([np.arange(first, last + 1) for first, last in stretches])
        assert numbers.tolist() == np.flatnonzero(wanted[RUN] == run).tolist()
        assert all(after[0] > before[1] + 1 for before, after in pairwise(stretches))


@pytest.mark.parametrize("wrong", ["none", "other", "far"])
def test_rows_that_say_wrongly_where_they_belong_are_placed_by_a_run(tmp_path: Path, wrong: str) -> None:
    made = result(tmp_path)
    made.open("a: 1\n", ENVIRONMENT, plan=plan(6))
    frame = plan(6).placed(rows(6)).assign(**{RUN: "r"})
    changed = {"none": frame.drop(columns=POSITION), "other": frame.assign(**{POSITION: range(5, -1, -1)})}
    made.parts.write(changed.get(wrong, frame.assign(**{POSITION: 6})))
    gathered = made.gathered()
    assert gathered
    made.publish(gathered, summed_up(Localization(), gathered.rows)[0])
    made.close()
    assert made.rows()["image"].tolist() == [f"{k:04d}" for k in range(6)]


def test_a_part_that_is_large_is_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigencam.store.parts.LARGEST_MERGED", 8)
    parts = Parts(tmp_path, "owner")
    for k in range(40):
        parts.write(rows(1, start=k))
    sizes = sorted(count for _, count in parts.counts())
    assert sum(sizes) == 40
    assert 8 < sizes[-1] <= 17


@pytest.mark.parametrize("collide", [False, True])
def test_ids_are_found_whatever_their_hashes(monkeypatch: pytest.MonkeyPatch, collide: bool) -> None:
    if collide:
        monkeypatch.setattr(image_positions, "hashes", lambda ids: np.array([len(i) for i in ids], np.int64))
    ids = [f"n{k}" for k in range(50)]
    found = Positions(ids)
    assert found.of([*ids[::-1], "x", "n50", ""]).tolist() == [*range(49, -1, -1), -1, -1, -1]
    with pytest.raises(ValueError, match="image y: not in the dataset"):
        Plan(found).placed(pd.DataFrame({"image": ["n1", "y"]}))


def test_the_first_digest_of_an_image_is_kept() -> None:
    known = KnownDigests(Positions(["a", "b", "c"]))
    known.add(["b", "elsewhere"], ["file:1", "file:2"])
    known.add(["a", "b", "c"], ["generated:long-name-1", "file:9", None])
    assert known.of(["a", "b", "c", "d"]) == ["generated:long-name-1", "file:1", None, None]
    assert not known.complete
    known.add(["c"], ["file:3"])
    assert known.complete
