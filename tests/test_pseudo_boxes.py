"""Boxes that replace the truth: chosen proposals compared with single passes; the command and its checkpoint."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from eigencam.datasets.scenes import Scenes
from eigencam.fitting import pseudo_boxes
from eigencam.fitting.job import fit, prepare
from eigencam.fitting.pseudo_boxes import PseudoBoxFit
from eigencam.methods.selective_search import SelectiveSearch, reduced
from eigencam.networks.fitted import read
from eigencam.running.run import run
from eigencam.store.reader import read_all

SMALL = ["model=scenes_resnet", "workers=0", "device=cpu"]


def config(command: str, results: Path, *overrides: str) -> Any:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose(command, [*SMALL, f"paths.results={results}", *overrides])


@pytest.mark.full
def test_the_proposal_is_the_one_that_looks_most_like_the_class(tmp_path: Path) -> None:
    job = prepare(config("fit", tmp_path, "fit=pseudo_boxes", "dataset.count=3"))
    for i in range(3):
        image, label = job.dataset.image(i), job.dataset.truth(i).label
        proposals = SelectiveSearch().proposals(image, torch.tensor([i]))[:12, :4]
        shares = []
        for x0, y0, x1, y1 in proposals.astype(int):
            seen, _ = job.network.preprocess(image[y0 : y1 + 1, x0 : x1 + 1].copy())
            with torch.inference_mode():
                logits = job.network.module(job.network.preprocess.normalize(torch.from_numpy(seen)[None]))
            shares.append(float(logits[0].softmax(0)[label]))
        (box,) = PseudoBoxFit("", count=12, batch_size=5).chosen(job.network, image, label, i)
        assert box.tolist() == proposals[int(np.argmax(shares))].tolist()
    nothing = PseudoBoxFit("").chosen(job.network, np.zeros((12, 12, 3), np.uint8), 0, 0)
    assert nothing.shape == (0, 4)  # narrower than any proposal


def test_a_large_image_is_searched_reduced() -> None:
    image = Scenes(1).image(0)
    large = image.repeat(2, axis=0).repeat(2, axis=1)
    small, scale = reduced(large, max(image.shape))
    assert (small.shape, scale.tolist()) == (image.shape, [2.0] * 4)
    assert np.abs(small.astype(int) - image).mean() < 8
    assert reduced(image, max(image.shape))[0] is image
    network = SimpleNamespace(
        preprocess=lambda part: (np.zeros((3, 1, 1), np.uint8) + part.shape[0] // 4, None),
        forward=lambda batch: SimpleNamespace(
            logits=torch.stack([batch[:, 0, 0, 0].float() / 9, 0 * batch[:, 0, 0, 0]], 1)
        ),
    )
    (box,) = PseudoBoxFit("", side=max(image.shape)).chosen(network, large, 0, 0)  # type: ignore[arg-type]
    proposals = SelectiveSearch().proposals(small, torch.tensor([0]))[:50, :4] + (0, 0, 1, 1)
    heights = (2 * (proposals[:, 3] - proposals[:, 1])).astype(int) // 4
    assert box.tolist() == (2 * proposals[int(heights.argmax())] - (0, 0, 1, 1)).tolist()


@pytest.mark.full
def test_the_list_chooses_a_threshold(tmp_path: Path) -> None:
    words = ["fit=pseudo_boxes", "dataset=scenes_validation", "dataset.count=6", "fit.count=8"]
    path = fit(config("fit", tmp_path, *words), say=lambda _line: None)
    listed = path.with_suffix(".txt")
    content = read(path)
    assert content.about["log"] == [{"images": 6, "without": 0}]
    names, *corners = zip(*(line.split(",") for line in listed.read_text().splitlines()), strict=True)
    data = Scenes(6, split="train", seed=1)
    assert list(names) == [f"{name}.jpg" for name in data.ids]
    assert np.array(corners, float).T.tolist() == content.tensors["box"].tolist()
    more = ["dataset=scenes_validation", "dataset.count=6", "method=[eigencam]"]
    evaluators = ["evaluator=[maxboxacc,localization_fong_range]", f"evaluator.maxboxacc.pseudo={listed}"]
    run(config("run", tmp_path, *more, *evaluators, f"evaluator.localization_fong_range.pseudo={listed}"))
    notes = [metric["note"] for stored in read_all(tmp_path) if stored.summary for metric in stored.summary.metrics]
    assert sum("threshold chosen by boxes in place of the truth's on 6 images" in note for note in notes) == 2


@pytest.mark.full
def test_a_stopped_one_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_boxes, "_WRITTEN_EVERY", 2)
    words = ["fit=pseudo_boxes", "dataset.count=5", "fit.count=4"]
    whole = fit(config("fit", tmp_path / "whole", *words), say=lambda _line: None).with_suffix(".txt").read_text()
    job = prepare(config("fit", tmp_path, *words))
    chosen, asked, stops = PseudoBoxFit.chosen, list[int](), [True]

    def stopping(self: PseudoBoxFit, network: Any, image: Any, label: int, position: int) -> Any:
        if position == 4 and stops.pop():
            raise KeyboardInterrupt
        asked.append(position)
        return chosen(self, network, image, label, position)

    monkeypatch.setattr(PseudoBoxFit, "chosen", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(config("fit", tmp_path, *words), say=lambda _line: None)
    assert (asked, job.checkpoint.is_file()) == ([0, 1, 2, 3], True)
    stops.append(False)
    path = fit(config("fit", tmp_path, *words), say=lambda _line: None)
    assert asked == [0, 1, 2, 3, 4]
    assert path.with_suffix(".txt").read_text() == whole
    assert not job.checkpoint.exists()


def test_what_cannot_be_chosen_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fit\.count=0; allowed: 1 or more"):
        PseudoBoxFit("", count=0)
    network = prepare(config("fit", tmp_path, "fit=pseudo_boxes", "dataset.count=3")).network
    odd = SimpleNamespace(name="d", ids=["a", "b,c"], class_space="other")
    told = list(PseudoBoxFit("").faults(network, odd))  # type: ignore[arg-type]
    assert "so it cannot say which proposal is of an image's class" in told[0]
    assert "1 ids of d contain a comma, e.g. b,c" in told[1]
