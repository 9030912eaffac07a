"""Classifiers for a dataset's classes: the regression compared with scikit-learn, labels, command, log, resuming."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from sklearn.linear_model import LogisticRegression
from toys import network, random_activations

import eigencam.fitting.sgd
from eigencam.datasets.base import Truth
from eigencam.datasets.voc import CLASSES
from eigencam.evaluation.average_precision import average_precision
from eigencam.fitting.classifier import ClassifierFit, _Whole
from eigencam.fitting.job import fit, prepare
from eigencam.fitting.logistic import loss, regress
from eigencam.fitting.training_images import class_labels
from eigencam.networks import fitted
from eigencam.networks.classifier import find_last_layer, pooled
from eigencam.networks.network import load_network
from eigencam.running.prepare import prepare as prepare_run
from eigencam.running.run import run

pytestmark = pytest.mark.full

KINDS = ("cat", "dog", "sheep")
CAT, DOG, SHEEP = (CLASSES.index(name) for name in KINDS)


def config(results: Path, *overrides: str, name: str = "fit") -> DictConfig:
    fixed = ["workers=0", "device=cpu", f"paths.results={results}", f"paths.voc={results}/voc"]
    chosen = ["fit=classifier", "fit.batch_size=5"] if name == "fit" else ["evaluator=[localization]", "method=[cam]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose(name, [*fixed, *chosen, *overrides])


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """20 images of noise, labelled as cats, dogs, both, and difficult sheep."""
    top = tmp_path / "voc/VOC2012"
    for below in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (top / below).mkdir(parents=True)
    ids = [f"2008_{i:06d}" for i in range(20)]
    rng = np.random.default_rng(0)
    for i, name in enumerate(ids):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(top / f"JPEGImages/{name}.jpg")
        names = [kind for k, kind in enumerate(KINDS) if i % (k + 2) == 0] or ["dog"]
        objects = "".join(
            f"<object><name>{kind}</name><difficult>{int(kind == 'sheep' and i % 8 == 0)}</difficult>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            for kind in names
        )
        size = "<size><width>40</width><height>30</height></size>"
        (top / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for part, chosen in (("trainval", ids), ("val", ids[:10])):
        (top / f"ImageSets/Main/{part}.txt").write_text("\n".join(chosen))
    return tmp_path


VOC = ["dataset=voc2012", "dataset.image_set=trainval"]


# The regression


def features(n: int = 60, d: int = 7) -> torch.Tensor:
    x = random_activations(n, d) * torch.linspace(0.1, 5, d) + 2
    x[:, 3] = 1.5  # a channel that never changes
    return x


def standardised(x: torch.Tensor) -> Any:
    scale = x.double().std(0, correction=0)
    return ((x.double() - x.double().mean(0)) / torch.where(scale > 0, scale, 1.0)).numpy()


def test_each_class_is_scikit_learns_logistic_regression_on_the_images_that_count() -> None:
    x, l2 = features(), 0.03
    labels = (random_activations(60, 4, seed=1) > 0.5).long()
    labels[random_activations(60, 4, seed=2) > 1] = -1
    found = regress(x, labels, l2, exclusive=False)
    assert found.gradient < 1e-6
    scores, z = (x.double() @ found.weight.T + found.bias).numpy(), standardised(x)
    mean, scale = x.double().mean(0), x.double().std(0, correction=0)
    for k in range(4):
        n = labels[:, k] >= 0
        # features are standardised over all images, including ignored ones
        model: Any = LogisticRegression(C=1 / (int(n.sum()) * l2), tol=1e-10, max_iter=10000)
        model.fit(z[n.numpy()], labels[n, k].numpy())
        np.testing.assert_allclose(scores[:, k], model.decision_function(z), atol=1e-5)
        np.testing.assert_allclose(found.weight[k] * torch.where(scale > 1e-6, scale, 1), model.coef_[0], atol=1e-5)
    assert mean[3] == 1.5
    assert found.weight[:, 3].abs().max() == 0


def test_exclusive_classes_are_scikit_learns_multinomial_regression() -> None:
    x, labels = features(), random_activations(60, 3, seed=4).argmax(1)
    found = regress(x, F.one_hot(labels, 3), 0.02, exclusive=True)
    model: Any = LogisticRegression(C=1 / (60 * 0.02), tol=1e-10, max_iter=10000)
    model.fit(standardised(x), labels.numpy())
    scores = x.double() @ found.weight.T + found.bias
    expected = model.predict_log_proba(standardised(x))
    np.testing.assert_allclose(scores.log_softmax(1).numpy(), expected, atol=1e-5)


def test_a_class_that_all_or_none_of_the_images_have_gets_its_smoothed_log_odds() -> None:
    labels = (random_activations(60, 4, seed=1) > 0.5).long()
    labels[:, 1], labels[:, 2] = 0, 1
    found, alone = regress(features(), labels, 0.1, False), regress(features(), labels[:, [0, 3]], 0.1, False)
    assert found.fitted.tolist() == [True, False, False, True]
    assert found.weight[1:3].abs().max() == 0
    odds = math.log(0.5 / 60.5)
    assert found.bias[1:3].tolist() == pytest.approx([odds, -odds])
    torch.testing.assert_close(found.weight[[0, 3]], alone.weight, atol=1e-5, rtol=1e-5)
    nothing = regress(features(), labels[:, 1:3], 0.1, False)
    assert (nothing.weight.abs().max(), nothing.gradient) == (0, 0)


def test_the_loss_does_not_see_what_does_not_count() -> None:
    logits, labels = random_activations(4, 2), torch.tensor([[1, 0], [-1, 0], [0, -1], [-1, -1]])
    expected = F.binary_cross_entropy_with_logits(logits[[0, 2], 0], torch.tensor([1.0, 0.0]))
    expected = expected + F.binary_cross_entropy_with_logits(logits[:2, 1], torch.zeros(2))
    torch.testing.assert_close(loss(logits, labels, False), expected)


def test_labels_are_1_for_any_object_that_is_not_difficult_and_minus_1_where_all_are() -> None:
    boxes = np.zeros((4, 4))
    of, hard = np.array([2, 2, 0, 3]), np.array([True, False, True, False])
    assert class_labels(Truth("x", (4, 4), 3, boxes, of, hard, foreground="any"), 5).tolist() == [-1, 0, 1, 1, 0]
    assert class_labels(Truth("x", (4, 4), 3, boxes, of, hard), 5).tolist() == [0, 0, 0, 1, 0]
    mask = np.array([[0, 2, 255], [5, 5, 0]], np.uint8)
    none = (np.zeros((0, 4)), np.zeros(0, np.int64))
    assert class_labels(Truth("x", (2, 3), 4, *none, mask=mask, foreground="any"), 5).tolist() == [0, 1, 0, 0, 1]
    assert class_labels(Truth("x", (2, 3), -1, *none, foreground="any"), 5).tolist() == [0] * 5


# The command


def test_the_last_layer_is_the_minimum_and_its_log_has_the_average_precision(voc: Path) -> None:
    lines: list[str] = []
    path = fit(config(voc, *VOC, "fit.held_out=0.3", "fit.l2=0.1"), say=lines.append)
    assert path == voc / "fitted/classifier-scenes_resnet-voc2012.safetensors"
    file = fitted.read(path)
    head, (last, held) = file.about["head"], file.about["log"]
    assert (len(head["fitted_on"]), len(head["held_out"]), last["pictures"], held["held_out"]) == (14, 6, 14, 6)
    assert path.with_suffix(".txt").read_text().split() == head["fitted_on"]
    assert not set(head["fitted_on"]) & set(head["held_out"])
    # the same by hand: averaged inputs of the layer, the regression, the ranking
    job = prepare(config(voc, *VOC))
    (batch,) = job.batches([range(20)], job.network.preprocess)
    x = job.network.forward(batch.images).activations().mean((2, 3))
    labels = torch.stack([class_labels(truth, 20) for truth in batch.truths])
    assert set(labels[:, SHEEP].tolist()) == {-1, 0, 1}
    chosen = torch.tensor([name in head["fitted_on"] for name in job.dataset.ids])
    found = regress(x[chosen], labels[chosen], 0.1, False)
    torch.testing.assert_close(file.tensors["fc.weight"].double(), found.weight, atol=1e-4, rtol=1e-3)
    scores = x.double() @ file.tensors["fc.weight"].T.double() + file.tensors["fc.bias"]
    for k, name in ((CAT, "cat"), (DOG, "dog"), (SHEEP, "sheep")):
        ap = average_precision(scores[~chosen, k].numpy(), labels[~chosen, k].numpy())
        if held["AP"].get(name):
            told = held["AP"][name]
            assert (told["all_points"], told["11_points"]) == pytest.approx(ap)
    assert held["mAP"] == pytest.approx(np.mean([ap["all_points"] for ap in held["AP"].values()]))
    assert "boat" in next(line for line in lines if "not to be fitted" in line)
    assert f"{100 * held['mAP']:.1f}" in next(line for line in lines if "held out" in line).splitlines()[-1]
    fit(config(voc, *VOC, "fit.held_out=0.3", "fit.l2=0.1"), say=lines.append)
    assert "nothing to do" in lines[-1]


def test_a_run_with_the_head_asks_for_every_class_of_an_image(voc: Path) -> None:
    path = fit(config(voc, *VOC), say=quiet)
    lines: list[str] = []
    given = [f"model.head={path}", "dataset=voc2012", "target=each"]
    job = run(config(voc, *given, "batch_size=10", name="run"), say=lines.append)
    seen = len(set(fitted.read(path).about["head"]["fitted_on"]) & set(job.dataset.ids))
    assert f"10 images, on {seen} of which the classifier was fitted" in lines[0]
    rows = job.results["cam", "localization"].rows()
    assert len(rows) == sum(len(job.dataset.truth(i).objects()) for i in range(10))
    assert (rows["label"] == rows["target"]).all()
    fresh = prepare_run(config(voc, *given, f"dataset.without={path.with_suffix('.txt')}", name="run"))
    assert len(fresh.dataset.ids) == 10 - seen
    with pytest.raises(ValueError, match=r"model\.head is set"):
        prepare(config(voc, *VOC, f"model.head={path}"))


def test_exclusive_classes_have_an_accuracy_and_faults_are_told(tmp_path: Path) -> None:
    path = fit(config(tmp_path, "dataset.count=30"), say=quiet)
    held = fitted.read(path).about["log"][-1]
    assert held["held_out"] == 6
    assert 0 <= held["accuracy"] <= 1
    for wrong, message in (
        (["fit.held_out=1"], "fit.held_out=1"),
        (["fit.train=first"], "allowed: last, all"),
        (["fit.l2=0"], "fit.l2=0"),
        (["fit.epochs=0"], "fit.epochs=0"),
        (["model.classes=null"], "has no classifier"),
        (["dataset=voc2012", f"paths.voc={tmp_path}/none"], "VOC 2012"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(config(tmp_path, *wrong))


def test_all_weights_go_down_the_same_loss_and_a_stopped_training_goes_on(
    voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*VOC, "fit.train=all", "fit.epochs=2", "fit.lr=1e-5", "fit.l2=1"]
    whole = fitted.read(fit(config(voc, *given, f"fit.file={voc}/whole.safetensors"), say=quiet))
    base = load_network(config(voc).model).module.state_dict()
    assert whole.tensors.keys() == base.keys()
    assert not torch.equal(whole.tensors["conv1.weight"], base["conv1.weight"])
    assert torch.equal(whole.tensors["bn1.running_mean"], base["bn1.running_mean"])
    assert whole.about["log"][2]["ce"] < whole.about["log"][1]["ce"]
    steps, original = 0, _Whole.terms

    def stopped(*args: Any) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(_Whole, "terms", stopped)
    monkeypatch.setattr(eigencam.fitting.sgd, "SAVE_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(config(voc, *given), say=quiet)
    lines: list[str] = []
    path = fit(config(voc, *given), say=lines.append)
    assert "epoch 2, step 2 of 4" in lines[0]
    again = fitted.read(path)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert again.about == whole.about
    loaded = load_network({**config(voc).model, "head": str(path)})
    assert (loaded.classes, loaded.sha256) == ("voc", again.sha256)
    torch.testing.assert_close(loaded.module.state_dict()["conv1.weight"], again.tensors["conv1.weight"])


def test_a_loss_that_is_no_number_ends_the_training_and_makes_no_file(voc: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) in epoch \d+; try a fit\.lr below 1000"):
        fit(config(voc, *VOC, "fit.train=all", "fit.lr=1000", "fit.epochs=9"), say=quiet)
    assert not list((voc / "fitted").glob("*.safetensors"))


def test_squeezenets_convolution_is_fitted_without_its_relu(voc: Path) -> None:
    module = network("conv")
    place = find_last_layer(module, (6, 7))
    assert place.rectifier == "classifier.1"
    assert pooled(random_activations(2, 6, 3, 3)).shape == (2, 6)
    given = ["model=squeezenet1_1", "model.weights=null", "model.preprocess.size=64"]
    path = fit(config(voc, *VOC, *given), say=quiet)
    file = fitted.read(path)
    assert file.about["head"]["rectifier"] == "classifier.2"
    assert file.tensors["classifier.1.weight"].shape == (20, 512, 1, 1)
    job = prepare_run(config(voc, *given, f"model.head={path}", "dataset=voc2012", "target=each", name="run"))
    assert job.methods["cam"].unsupported(job.network) == ""  # type: ignore[attr-defined]
    logits = job.network.forward(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).logits
    assert logits.shape == (1, 20)
    assert logits.min() < 0


def test_the_images_held_out_do_not_depend_on_the_order_of_asking() -> None:
    a, b = ClassifierFit("f", held_out=0.25).parts(40)
    assert (len(a), len(b)) == (30, 10)
    assert sorted(a + b) == list(range(40))
    assert ClassifierFit("f", held_out=0.25).parts(40) == (a, b)
    assert set(ClassifierFit("f", held_out=0.5).parts(40)[1]) > set(b)
    assert ClassifierFit("f", held_out=0.25, seed=1).parts(40)[1] != b
    assert ClassifierFit("f", held_out=0).parts(3) == ([0, 1, 2], [])
