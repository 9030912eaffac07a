"""wsolevaluation's training: erasing compared with closed forms, schedule, selection, resuming, networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import TrainedNet, random_activations
from training import config, fitted_by, killed

from eigencam.configuring.overrides import of_fit
from eigencam.fitting.erasing import attention_dropout, cut_box, hide, mixed, squares
from eigencam.fitting.job import prepare
from eigencam.fitting.selection import MAX_BOX_ACC_V2
from eigencam.fitting.training_images import seed_of, shuffled
from eigencam.fitting.wsol import WSOLFit, _Learner
from eigencam.methods.cam import CAM
from eigencam.networks.network import load_network
from eigencam.networks.wsol import WSOLVGG16, WSOLInceptionV3, wsol_resnet50
from eigencam.passes.forward import forward_pass
from eigencam.running.run import run

pytestmark = pytest.mark.full

WSOL = ["fit=wsol", "fit.validation.count=6"]
METHODS = ("cam", "has", "cutmix", "adl")


def test_hidden_squares_are_zero_and_nothing_else_is() -> None:
    images = random_activations(2, 3, 7, 10)
    drawn = torch.zeros(2, 2, 3)
    drawn[0, 1, 2] = drawn[1, 0, 0] = 0.9
    found = hide(images, drawn, 4, 0.5)
    expected = torch.zeros_like(images)
    expected[0, :, 4:7, 8:10], expected[1, :, :4, :4] = images[0, :, 4:7, 8:10], images[1, :, :4, :4]
    assert torch.equal(found, expected)
    assert torch.equal(hide(images, drawn + 0.01, 4, 0.0), images)
    assert hide(images, drawn, 4, 1.0).abs().max() == 0
    assert hide(images, drawn, 0, 1.0) is images
    assert [squares(224, grid) for grid in (4, 65, 224, 300, 0)] == [56, 4, 1, 1, 0]


@pytest.mark.parametrize(
    ("share", "centre", "box"),
    [
        (1.0, (3, 4), (3, 3, 4, 4, 1.0)),
        (0.0, (5, 10), (0, 10, 0, 20, 0.0)),
        (0.75, (5, 10), (3, 7, 5, 15, 0.8)),  # int(10 / 2) // 2 rows and 20 / 2 // 2 columns on either side
        (0.75, (0, 19), (0, 2, 14, 20, 0.94)),
    ],
)
def test_the_box_of_cutmix(share: float, centre: tuple[int, int], box: tuple[float, ...]) -> None:
    found = cut_box((10, 20), share, centre)
    assert found[:4] == box[:4]
    assert found.outside == pytest.approx(box[4])
    images, order = random_activations(2, 1, 10, 20), torch.tensor([1, 0])
    made = mixed(images, order, found)
    kept = torch.ones(10, 20, dtype=torch.bool)
    kept[found.top : found.bottom, found.left : found.right] = False
    assert torch.equal(made[:, :, kept], images[:, :, kept])
    assert torch.equal(made[:, :, ~kept], images[order][:, :, ~kept])
    assert kept.float().mean().item() == pytest.approx(found.outside)


def test_attention_dropout_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 8.0]], [[1.0, 2.0], [3.0, 0.0]]]])
    mean = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.testing.assert_close(attention_dropout(features, 0.6, False), features * mean.sigmoid())
    assert torch.equal(attention_dropout(features, 0.6, True), features * torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    constant = torch.full((2, 3, 4, 4), 0.7)
    assert attention_dropout(constant, 1.0, True).abs().max() == 0


def test_the_rate_falls_in_every_third_epoch() -> None:
    options = WSOLFit("f", lr=1.0, frequency=3)
    assert [round(options.rate(e), 6) for e in range(6)] == [1, 1, 0.1, 0.1, 0.1, 0.01]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_in_the_same_weights(tmp_path: Path, method: str) -> None:
    chosen = [*WSOL, f"fit.method={method}", "fit.lr=0.1"]
    chosen += ["fit.select=best"] if method == "has" else ["fit.validation=null"]
    whole, again = fitted_by(tmp_path / "whole", *chosen), killed(tmp_path / "killed", 5, *chosen)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert again.about == whole.about
    assert whole.about["head"]["label"].lower() == method


def test_what_is_erased_changes_the_training(tmp_path: Path) -> None:
    found = {}
    for method in METHODS:
        chosen = ["fit=wsol", "fit.validation=null", f"fit.method={method}", "fit.epochs=1", "fit.has.grid=[4,8]"]
        found[method] = fitted_by(tmp_path, *chosen).tensors["conv.weight"]
    for a, b in ((a, b) for a in METHODS for b in METHODS if a < b):
        assert not torch.equal(found[a], found[b]), (a, b)


def test_losses_are_those_of_the_formulas(tmp_path: Path) -> None:
    few = ["fit.validation=null", "fit.epochs=1", "fit.batch_size=4", "dataset.count=4", "fit.augment=false"]
    for method in ("has", "cutmix"):
        job = prepare(config(tmp_path, "fit=wsol", *few, f"fit.method={method}", "fit.lr=1e-12"))
        job.network.module.get_submodule("dropout").p = 0.0  # type: ignore[assignment]
        fitter = job.fitter
        assert isinstance(fitter, WSOLFit)
        pixels = torch.stack([torch.from_numpy(job.network.preprocess(job.dataset.image(i))[0]) for i in range(4)])
        labels = torch.tensor([job.dataset.truth(i).label for i in range(4)])
        net = TrainedNet().train()
        net.load_state_dict(job.network.module.state_dict())
        net.dropout.p = 0.0
        _, log = fitter.fit(job)
        (batch,) = job.batches([shuffled(4, fitter.seed, 0).tolist()], job.network.preprocess)
        images, y = job.network.preprocess.normalize(pixels[batch.index]), labels[batch.index]
        learner = _Learner(fitter, None)  # type: ignore[arg-type]
        if method == "has":
            images = learner._hidden(images, batch, 0)
            assert 0.3 < (images[0, 0] == 0).float().mean() < 0.7
            loss = F.cross_entropy(net(images), y)
        else:
            images, others, share = learner._mixed(images, y, 0)
            logits = net(images)
            loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, others)
        assert log[0]["ce"] == pytest.approx(loss.item(), rel=1e-5)


def test_cutmix_leaves_batches_alone_with_the_probability_that_is_said() -> None:
    images, labels = random_activations(4, 3, 8, 8), torch.arange(4)
    learner = _Learner(WSOLFit("f", "cutmix", cutmix={"probability": 0.25}), None)  # type: ignore[arg-type]
    kept = [learner._mixed(images, labels, step)[0] is images for step in range(200)]
    assert 0.65 < np.mean(kept) < 0.85


def test_the_best_epoch_is_kept_and_measured_as_a_run_does(tmp_path: Path) -> None:
    chosen = [*WSOL, "fit.select=best", "fit.epochs=3", "fit.lr=0.3", "fit.frequency=9"]
    made = fitted_by(tmp_path, *chosen)
    scores = [entry[MAX_BOX_ACC_V2] for entry in made.about["log"]]
    best = int(np.argmax(scores))
    shorter = fitted_by(tmp_path / "shorter", *WSOL, f"fit.epochs={best + 1}", "fit.lr=0.3", "fit.frequency=9")
    assert torch.equal(made.tensors["conv.weight"], shorter.tensors["conv.weight"])
    again = ["dataset=scenes_validation", "dataset.count=6", "method=[cam]", "evaluator=[maxboxacc_v2]"]
    job = run(config(tmp_path, *again, f"model.head={made.path}", "timing=false", name="run"), say=lambda _line: None)
    summary = job.results["cam", "maxboxacc_v2"].summary
    assert summary is not None
    assert summary.metrics[0]["value"] / 100 == pytest.approx(scores[best])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("fit.method=fog", "allowed: cam, has, acol, spg, cutmix, adl"),
        ("fit.has.rate=2", r"fit\.has\.rate=2"),
        ("fit.adl.threshold=-1", r"fit\.adl\.threshold=-1"),
        ("fit.cutmix.beta=0", r"fit\.cutmix\.beta=0"),
        ("fit.has.grid=[]", r"fit\.has\.grid=\[\]"),
        ("+fit.has.colour=1", r"fit\.has\.colour: unknown"),
        ("fit.validation.split=test", "for evaluation"),
        ("dataset@fit.validation=cub", "cub"),
        ("model=scenes_vgg", "CAM needs global average pooling"),
    ],
)
def test_faults_are_reported_before_training(tmp_path: Path, wrong: str, message: str) -> None:
    chosen = WSOL if "@" not in wrong else WSOL[:1]
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, *chosen, wrong))


def test_layers_of_adl_have_to_be_there_and_best_needs_a_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fit\.adl\.layers: no layer 'nothing'"):
        prepare(config(tmp_path, *WSOL, "fit.method=adl", "fit.adl.layers=[nothing]"))
    with pytest.raises(ValueError, match="it needs images with boxes"):
        WSOLFit("f", select="best")


def test_adl_stands_behind_the_authors_layers(tmp_path: Path) -> None:
    options = WSOLFit("f", "adl")
    network = load_network(config(tmp_path).model)
    assert options.adl_layers(network) == ["relu"]
    assert WSOLFit("f", "adl", adl={"layers": ["bn"]}).adl_layers(network) == ["bn"]


def test_the_option_s_name_may_stand_for_fit() -> None:
    assert of_fit(["fit=wsol", "wsol.method=has", "+wsol.x=1"]) == ["fit=wsol", "fit.method=has", "+fit.x=1"]
    assert of_fit(["fit=flim", "wsol.method=has"]) == ["fit=flim", "wsol.method=has"]
    assert of_fit(["limit=3"]) == ["limit=3"]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("make", "layer", "parameters"),
    [
        (WSOLVGG16, "relu", 19_441_479),
        (wsol_resnet50, "layer4", 23_522_375),
        (WSOLInceptionV3, "SPG_A3_2b", 25_490_151),
    ],
)
def test_maps_are_of_a_sixteenth_or_an_eighth(make: type, layer: str, parameters: int, large: bool) -> None:
    net = make(7, large).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    forward = forward_pass(net, random_activations(1, 3, 64, 64), layer)
    maps = CAM()(forward, torch.tensor([3]))
    assert maps.shape[1] in ((8, 7) if large else (4,))
    names = [name for name, _ in net.named_parameters()]
    assert all(any(name.startswith(f"{prefix}.") for name in names) for prefix in net.new_layers)
    for name in net.adl_layers:
        net.get_submodule(name)


def test_seeds_of_steps_differ() -> None:
    assert len({seed_of(0, step, "step") for step in range(100)}) == 100
