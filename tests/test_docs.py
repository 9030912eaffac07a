"""The pages name what there is."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "group"), [("datasets", "dataset"), ("protocols", "evaluator")])
def test_a_page_names_every_option_of_its_group(page: str, group: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    names = {path.stem for path in (ROOT / f"configs/{group}").glob("*.yaml")}
    # `a`, `_b` in a list stands for `a_b` of the option before.
    missing = {name for name in names if f"`{name}`" not in text and f"`_{name.split('_')[-1]}`" not in text}
    assert not missing


def test_the_datasets_page_names_every_path_and_variable() -> None:
    text = (ROOT / "docs/datasets.md").read_text()
    for line in (ROOT / "configs/paths/default.yaml").read_text().splitlines():
        key = line.split(":")[0]
        if key not in ("results", "weights") and "EIGENCAM_" in line:
            assert f"`paths.{key}`" in text
            assert f"`{line.split('oc.env:')[1].split(',')[0]}`" in text
