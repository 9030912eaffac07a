"""Pairs: lists, generated pairs, the network that compares, and the methods that explain why two images match."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dataset_files import write_image
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from omegaconf import DictConfig
from pretend_gpu import pretend_gpu
from torch import Tensor, nn
from toys import network as toy
from toys import random_activations

from eigencam.datasets.base import Dataset
from eigencam.datasets.pairs import SAME, Lfw, Paired, ScenePairs, read_pairs
from eigencam.datasets.scenes import Scenes
from eigencam.datasets.subset import chosen
from eigencam.fitting.job import fit
from eigencam.fitting.support import SupportFit
from eigencam.methods.fam import FAM, FAMSupport, contributions
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.lime import LIME
from eigencam.methods.refusal import refusal
from eigencam.networks.network import Network, Preprocess
from eigencam.networks.verification import NEAREST, PairNetwork, Verifier, for_pairs
from eigencam.running.batch_maps import compute_maps
from eigencam.running.prepare import prepare
from eigencam.running.run import run
from eigencam.store.build import find, instantiate

LIST = "1\t2\nAda\t1\t2\nBo_Li\t1\t3\nAda\t1\tBo_Li\t1\nAda\t2\tBo_Li\t2\n"


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    for k, name in enumerate(("Ada/Ada_0001", "Ada/Ada_0002", "Bo_Li/Bo_Li_0001", "Bo_Li/Bo_Li_0002")):
        write_image(tmp_path / f"{name}.jpg", (20 + k, 30), k)
    write_image(tmp_path / "Bo_Li/Bo_Li_0003.png", (25, 30), 5)
    (tmp_path / "pairs.txt").write_text(LIST)
    return tmp_path


# The datasets


def test_each_image_of_a_pair_is_compared_with_the_other(lfw: Path) -> None:
    data = Lfw(lfw, matching=None)
    assert isinstance(data, Dataset)
    assert isinstance(data, Paired)
    assert not isinstance(Scenes(1), Paired)
    assert len(data.ids) == len(set(data.ids)) == 8
    assert [data.truth(i).label for i in range(8)] == [SAME] * 4 + [0] * 4
    assert data.truth(0).size == (20, 30)
    for i in range(8):
        assert (data.partner(i) == data.image(i ^ 1)).all()
    assert data.digest(0).startswith("pair:file:")
    assert data.digest(0) != data.digest(1)
    part = chosen(data, images=[data.ids[5]])
    assert isinstance(part, Paired)
    assert (part.partner(0) == data.image(4)).all()


def test_pairs_that_match_keep_their_ids_in_any_choice(lfw: Path) -> None:
    choices: tuple[bool | None, ...] = (None, True, False)
    every, same, other = (Lfw(lfw, matching=choice) for choice in choices)
    assert (len(same.ids), len(other.ids)) == (4, 4)
    assert same.ids == every.ids[:4]
    assert len({str(data.identity()) for data in (every, same, other)}) == 3
    (lfw / "Bo_Li/Bo_Li_0002.jpg").unlink()
    assert len(Lfw(lfw, matching=None, allow_missing=True).ids) == 6
    with pytest.raises(FileNotFoundError, match=r"1 images of pairs.txt are missing: .*Bo_Li_0002.jpg .*vis-www"):
        Lfw(lfw, matching=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no numbers of folds and pairs"),
        ("2\t2\nAda\t1\t2\nAda\t1\tBo_Li\t1\n", "line 1: 2 2; expected with the 2 pairs that follow"),
        ("1\nAda\t1\t2\nAda\t1\tBo\t1\t9\n", "line 3: 5 columns; expected: `name m n`"),
        ("1\nAda\t1\tx\nAda\t1\tBo\t1\n", "line 2: .*'x'"),
        ("1\n../Ada\t1\t2\nAda\t1\tBo\t1\n", "line 2: '../Ada' is no name of a folder"),
        ("one\nAda\t1\t2\n", "line 1: .*'one'"),
        ("0\n", "line 1: no numbers of folds"),
        ("1\nAda\t1\t1\nAda\t1\tBo\t1\n", "line 2: an image with itself, in .*expected: `name m n`"),
        ("1\nAda\t1\t2\nAda\t1\tAda\t2\n", "line 3: 'Ada' twice in a pair that does not match"),
    ],
)
def test_a_list_of_another_form_is_refused(text: str, words: str, lfw: Path) -> None:
    (lfw / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_pairs(lfw / "pairs.txt", lfw)
    with pytest.raises(FileNotFoundError, match=r"no .*other.txt. LFW's pairs.txt"):
        Lfw(lfw, "other.txt")


def test_generated_pairs_share_objects_of_one_class_or_none() -> None:
    data = ScenePairs(6, matching=None)
    assert isinstance(data, Dataset)
    for k in range(6):
        first, second = (data.truth(2 * k + side) for side in (0, 1))
        scenes = data._scenes(2 * k)
        common = set(scenes[0].labels.tolist()) & set(scenes[1].labels.tolist())
        assert first.label == second.label == data.same(k) == (k % 2 == 0)
        assert common == ({int(scenes[0].labels[0])} if data.same(k) else set())
        for side, truth in enumerate((first, second)):
            assert truth.mask is not None
            assert ((truth.mask > 0) == (scenes[side].mask > 0)).all()
            assert truth.sought_pixels().any()
            assert set(truth.box_labels[truth.sought()]) == {truth.label}
            assert truth.sought()[0]  # the main object
            assert (data.partner(2 * k + side) == scenes[1 - side].image).all()
    again = ScenePairs(3, matching=True)
    assert (again.image(0) == data.image(0)).all()  # a function of seed, pair and whether it matches
    assert again.digest(0) == data.digest(0) != data.digest(1)
    assert ScenePairs(3, seed=1).identity() != again.identity()


@pytest.mark.parametrize("options", [{"count": 0}, {"seed": -1}])
def test_options_of_generated_pairs_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scenes_pairs need count >= 1 and seed >= 0"):
        ScenePairs(**options)


# The network that compares


class Vectors(nn.Module):
    """A network without a classifier that returns embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


def plain(module: nn.Module, classes: str | None = "c") -> Network:
    return Network("toy", module.eval(), "conv", classes, "", Preprocess(size=12))


def compared(module: nn.Module, classes: str | None = "c") -> tuple[PairNetwork, Tensor, Tensor]:
    """A network for two images, and their normalised inputs."""
    drawn = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
    made = for_pairs(plain(module, classes), lambda i: drawn[i ^ 1])
    small = torch.from_numpy(np.stack([made.preprocess(image)[0] for image in drawn]))
    return made, small, made.preprocess.normalize(small, torch.float32)


def test_the_probability_of_a_match_is_linear_in_the_cosine() -> None:
    made, small, x = compared(toy("rectified"))
    module = made.module
    assert isinstance(module, Verifier)
    embeddings = module.network.conv(x).mean((2, 3))  # type: ignore[operator]
    cosine = F.cosine_similarity(embeddings[:1], embeddings[1:]).detach()
    for i in (0, 1):
        forward = made.forward(small[i : i + 1], index=torch.tensor([i]), gradients=True)
        torch.testing.assert_close(forward.logits.softmax(1)[:, SAME], (1 + cosine) / 2)
        assert forward.partner is not None
        torch.testing.assert_close(forward.partner.activations().mean((2, 3)), embeddings[1 - i : 2 - i])
        gradient = forward.gradients(torch.tensor([SAME])).sum()
        assert gradient.isfinite()
        assert gradient != 0
    itself = module.compared_with(embeddings[:1])(x[:1])
    torch.testing.assert_close(itself.softmax(1)[:, SAME], torch.tensor([(1 + NEAREST) / 2]), atol=1e-6, rtol=0)
    assert itself.isfinite().all()


def test_a_network_that_returns_vectors_is_compared_by_them() -> None:
    net = Vectors()
    made, small, x = compared(net, None)
    assert isinstance(made.module, Verifier)
    assert made.module.layer is None
    forward = made.forward(small[:1], index=torch.tensor([0]))
    cosine = F.cosine_similarity(net(x[:1]), net(x[1:])).detach()
    torch.testing.assert_close(forward.logits.softmax(1)[:, SAME], (1 + cosine) / 2)
    by_layer, _, _ = compared(Vectors(), "c")  # its output is the classes
    assert isinstance(by_layer.module, Verifier)
    assert by_layer.module.layer == "conv"


def test_images_are_compared_one_at_a_time() -> None:
    made, small, _ = compared(toy("gap"))
    with pytest.raises(ValueError, match=r"2 images of pairs in one pass; .*batch_size=1"):
        made.forward(small, index=torch.tensor([0, 1]))
    assert made.forward(small).partner is None  # of a check, with noise


@pytest.mark.full
def test_pairs_on_a_pretended_gpu_are_those_of_the_cpu() -> None:
    methods: dict[str, Any] = {"fam": FAM(), "gradcam": GradCAM(), "lime": LIME("similarity", 20, "slic", 6)}
    drawn = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
    small = torch.from_numpy(drawn[:1].transpose(0, 3, 1, 2).copy())

    def maps(device: str) -> dict[str, NDArray[np.float32]]:
        made = for_pairs(plain(toy("rectified").to(device)), lambda i: drawn[i ^ 1])
        return compute_maps(made, methods, small, labels=[SAME], index=[0]).maps

    here = maps("cpu")
    with pretend_gpu():
        there = maps("cuda")
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, atol=1e-6)


def test_what_follows_classes_refuses_a_cosine() -> None:
    made, _, _ = compared(toy("rectified"))
    for option in ("lrp", "cam"):
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            node: Any = compose("run", [f"method=[{option}]"]).method[option]
        assert refusal(instantiate(node), made), option
    assert not refusal(GradCAM(), made)


# The methods


def test_fam_and_lime_explain_the_similarity_of_a_pair() -> None:
    made, small, x = compared(toy("rectified"))
    lime = LIME("similarity", samples=60, segmentation="slic", segments=6, fill="zero")
    module = made.module
    assert isinstance(module, Verifier)
    activations = module.network.conv(x).detach()  # type: ignore[operator]
    e = activations.mean((2, 3))
    for i in (0, 1):
        found = compute_maps(made, {"fam": FAM(), "lime": lime}, small[i : i + 1], labels=[SAME], index=[i])
        weights = contributions(e[i : i + 1], e[1 - i : 2 - i], "cosine")
        expected = torch.einsum("nc,nchw->nhw", weights, activations[i : i + 1])
        torch.testing.assert_close(torch.from_numpy(found.maps["fam"]), expected)
        forward = made.forward(small[i : i + 1], index=torch.tensor([i]))
        assert forward.partner is not None
        # The same without pairs: the reference replaces the image's own embedding.
        alone = plain(toy("rectified")).forward(small[i : i + 1], index=torch.tensor([i]))
        alone.activations = forward.partner.activations  # type: ignore[method-assign]
        torch.testing.assert_close(lime(forward, torch.zeros(1)), lime(alone, torch.zeros(1)), atol=1e-5, rtol=1e-4)


def test_orthogonal_embeddings_have_no_share() -> None:
    e = torch.eye(4)[:1] * 3
    assert (contributions(e, torch.eye(4)[1:2], "cosine") == 0).all()
    squares = contributions(random_activations(2, 5), random_activations(2, 5), "cosine")
    assert (squares >= 0).all()  # of identical images


def config(results: Path, *overrides: str, command: str = "run") -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose(command, ["workers=0", "device=cpu", f"paths.results={results}", *overrides])


def test_a_run_over_pairs(tmp_path: Path) -> None:
    words = ["dataset=scenes_pairs", "dataset.count=1", "dataset.matching=null", "method=[fam_reading,gradcam,random]"]
    job = run(config(tmp_path, *words, "evaluator=[localization,insertion_deletion]"), say=lambda _line: None)
    assert job.comparable
    assert all(result.complete for result in job.results.values())
    rows = job.results["fam_reading", "insertion_deletion"].rows()
    data, net = job.dataset, job.network
    assert isinstance(net, PairNetwork)
    assert net.plain is not None
    small = torch.from_numpy(np.stack([net.preprocess(data.image(i))[0] for i in (0, 1)]))
    e = net.plain.forward(small).activations().mean((2, 3))
    expected = (1 + float(F.cosine_similarity(e[:1], e[1:]))) / 2
    for curve in rows["deletion"]:
        assert curve[0] == pytest.approx(expected, abs=1e-5)  # nothing is deleted yet
    assert rows["label"].tolist() == [SAME, SAME]
    with pytest.raises(ValueError, match="batch_size=4; allowed with scenes_pairs, a dataset of pairs: auto, 1"):
        prepare(config(tmp_path, *words, "batch_size=4"))


# The support set


def test_a_support_set_is_the_mean_embedding_of_a_few_images(tmp_path: Path) -> None:
    words = ["fit=support", "dataset.count=90", "fit.shots=1", "fit.batch_size=5"]
    path = fit(config(tmp_path, *words, command="fit"), say=lambda _line: None)
    job = prepare(config(tmp_path, "dataset.count=1", "method=[fam_support_reading]"))
    method = job.methods["fam_support_reading"]
    assert isinstance(method, FAMSupport)
    assert method.support is not None
    assert method.support.path == path
    assert not method.unsupported(job.network)
    assert "was fitted for" in method.unsupported(replace(job.network, sha256="other"))
    used = SupportFit("", shots=1).chosen(Scenes(90, split="train"))
    assert [label for _, label in sorted(used, key=lambda pair: pair[1])] == list(range(12))
    position, label = used[0]
    image = Scenes(90, split="train").image(position)
    small = torch.from_numpy(job.network.preprocess(image)[0])[None]
    embedding = job.network.forward(small).activations().mean((2, 3))
    torch.testing.assert_close(method.support.tensors["embedding"][label], embedding[0])
    np.save(tmp_path / "one.npy", embedding[0].numpy())
    found = compute_maps(job.network, {"m": method}, small, labels=[label]).maps["m"]
    expected = compute_maps(job.network, {"m": FAM(reference=str(tmp_path / "one.npy"))}, small).maps["m"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_is_missing_of_a_support_set_is_said(tmp_path: Path) -> None:
    lacking = FAMSupport(str(tmp_path / "nowhere.safetensors"))
    assert "eigencam fit model=toy fit=support" in lacking.unsupported(plain(toy("gap")))
    with pytest.raises(ValueError, match=r"fit.shots=30: scenes has fewer images of balloon, "):
        SupportFit("", shots=30).chosen(Scenes(4))
    with pytest.raises(ValueError, match=r"fit\.shots=0; allowed: 1 or more"):
        SupportFit("", shots=0)
    with pytest.raises(ValueError, match="cosine, euclidean"):
        FAMSupport("", "dot")  # type: ignore[arg-type]
    assert find("eigencam.fitting.support.SupportFit") is SupportFit
