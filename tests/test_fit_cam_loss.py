"""CAM-loss: its term compared with closed forms and autograd, training, resuming, and the trained network."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toys import TrainedNet, random_activations
from training import config, fitted_by, killed

from eigencam.fitting.cam_loss import CAMLossFit, cam_term, distance, scaled
from eigencam.fitting.job import prepare
from eigencam.networks.network import load_network
from eigencam.running.prepare import prepare as prepare_run

pytestmark = pytest.mark.full

CAM_LOSS = ["fit=cam_loss"]


def test_of_one_channel_the_maps_are_equal_or_opposite() -> None:
    a = random_activations(3, 1, 4, 5).double()
    labels = torch.tensor([0, 1, 0])
    weight = torch.tensor([[2.0], [-3.0]], dtype=torch.float64)
    mm = scaled(a[:, 0])[0]
    same, opposite = torch.zeros(()), (1 - 2 * mm[1]).abs().mean()
    torch.testing.assert_close(cam_term(a, weight, labels).distance, (opposite + 2 * same) / 3, check_dtype=False)
    assert cam_term(a, weight, torch.zeros(3, dtype=torch.long)).distance == 0


def test_the_term_and_its_gradients_are_those_of_the_formula() -> None:
    a = random_activations(4, 6, 3, 5).double().requires_grad_()
    weight = random_activations(7, 6, seed=1).double().requires_grad_()
    labels, total = torch.tensor([6, 0, 2, 2]), torch.zeros((), dtype=torch.float64)
    for n in range(4):
        cam, caam = (weight.detach()[labels[n], :, None, None] * a[n]).sum(0), a[n].sum(0)
        one, two = ((m - m.min()) / (m.max() - m.min()) for m in (cam, caam))
        total = total + (one - two).abs().sum() / (4 * 15)
    found = cam_term(a, weight, labels)
    torch.testing.assert_close(found.distance, total)
    ours, theirs = (torch.autograd.grad(value, a, retain_graph=True)[0] for value in (found.distance, total))
    torch.testing.assert_close(ours, theirs)
    assert theirs.abs().max() > 0
    assert torch.autograd.grad(found.distance, weight, allow_unused=True) == (None,)


def test_an_image_with_a_constant_map_counts_as_zero_and_has_a_gradient_of_zero() -> None:
    a = torch.cat([random_activations(1, 3, 4, 4), torch.ones(1, 3, 4, 4)]).requires_grad_()
    found = cam_term(a, torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([0, 0]))
    alone = cam_term(a[:1], torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([0]))
    torch.testing.assert_close(found.distance, alone.distance / 2)
    assert found.constant == 0.5
    (gradient,) = torch.autograd.grad(found.distance, a)
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() == 0


def test_the_file_is_a_network_and_the_log_has_both_terms(tmp_path: Path) -> None:
    made = fitted_by(tmp_path, *CAM_LOSS, "fit.warmup=1")
    first, second = made.about["log"]
    assert first["cam"] == 0 < first["distance"]
    assert second["cam"] == pytest.approx(3 * second["distance"], rel=1e-5)
    assert second["loss"] == pytest.approx(second["ce"] + second["cam"], rel=1e-5)
    before = load_network(config(tmp_path).model)
    after = load_network({**config(tmp_path).model, "head": str(made.path)})
    assert (after.classes, after.sha256, after.identity["fitted"]) == ("scenes", made.sha256, "CAM-loss")
    assert "fitted" not in before.identity
    for name in ("bn.running_mean", "conv.weight", "fc.bias"):
        assert not torch.equal(after.module.state_dict()[name], before.module.state_dict()[name])
        assert torch.equal(after.module.state_dict()[name], made.tensors[name])
    run = ["dataset=scenes", "dataset.count=2", "method=[cam]", f"model.head={made.path}"]
    assert prepare_run(config(tmp_path, *run, name="run")).methods["cam"].unsupported(after) == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_training_ends_in_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    chosen = [*CAM_LOSS, f"fit.optimizer={optimizer}"]
    whole, again = fitted_by(tmp_path / "whole", *chosen), killed(tmp_path / "killed", 5, *chosen)
    assert whole.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert again.about == whole.about
    assert again.tensors["bn.num_batches_tracked"] == 6
    other = fitted_by(tmp_path / "other", *chosen, "fit.seed=1")
    assert not torch.equal(other.tensors["conv.weight"], whole.tensors["conv.weight"])


def test_a_step_descends_the_gradient_of_both_terms(tmp_path: Path) -> None:
    plain = ["fit.optimizer=sgd", "fit.lr=0.5", "fit.epochs=1", "fit.augment=false", "dataset.count=4"]
    job = prepare(config(tmp_path, *CAM_LOSS, *plain))
    module = TrainedNet().double().train()
    module.load_state_dict(job.network.module.state_dict())
    module.dropout.p = job.network.module.get_submodule("dropout").p = 0.0  # type: ignore[assignment]
    images = torch.stack([torch.from_numpy(job.network.preprocess(job.dataset.image(i))[0]) for i in range(4)])
    labels = torch.tensor([job.dataset.truth(i).label for i in range(4)])
    a = module.relu(module.bn(module.conv(job.network.preprocess.normalize(images).double())))
    loss = F.cross_entropy(module.fc(a.mean((2, 3))), labels) + 3 * cam_term(a, module.fc.weight, labels).distance
    loss.backward()
    tensors, log = job.fitter.fit(job)
    assert log[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, p in module.named_parameters():
        assert p.grad is not None
        first = p.detach() - 0.5 * 1.9 * p.grad  # Nesterov's first step is g + momentum g
        torch.testing.assert_close(tensors[name].detach().double(), first, rtol=1e-4, atol=1e-5)


def test_distillation_draws_the_students_sum_to_the_teachers_map(tmp_path: Path) -> None:
    teacher = ["model@fit.teacher=scenes_resnet", "fit.teacher.preprocess.size=28", "fit.augment=false"]
    job = prepare(config(tmp_path, *CAM_LOSS, *teacher, "dataset.count=4", "fit.epochs=1", "fit.lr=1e-9"))
    assert isinstance(job.fitter, CAMLossFit)
    assert job.fitter.teacher
    other = load_network(job.fitter.teacher)
    images = torch.stack([torch.from_numpy(job.network.preprocess(job.dataset.image(i))[0]) for i in range(4)])
    labels = torch.tensor([job.dataset.truth(i).label for i in range(4)])
    student = job.network.module
    job.network.module.train()
    a = torch.relu(student.bn(student.conv(job.network.preprocess.normalize(images))))  # type: ignore[operator]
    job.network.module.eval()
    weight: Any = other.module.get_submodule("fc").weight
    cams = torch.einsum("nc,nchw->nhw", weight[labels], other.forward(images).activations())
    large = F.interpolate(cams[:, None], a.shape[2:], mode="bilinear")[:, 0]
    _, log = job.fitter.fit(job)
    assert log[0]["distance"] == pytest.approx(distance(large, a.sum(1)).distance.item(), rel=1e-4)
    assert other.sha256 in str(job.about["fit"])
    with pytest.raises(ValueError, match=r"fit\.teacher: scenes_resnet takes images of \(\(112, 112\), 'squash'\)"):
        prepare(config(tmp_path, *CAM_LOSS, teacher[0]))


def test_a_dataset_of_other_classes_gets_a_new_last_layer(tmp_path: Path) -> None:
    made = fitted_by(tmp_path, *CAM_LOSS, "model.classes=own", "+model.args.classes=3")
    assert made.tensors["fc.weight"].shape == (12, 6)
    assert made.about["head"]["class_space"] == "scenes"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("fit.alpha=-1", "fit.alpha=-1"),
        ("fit.optimizer=rms", "allowed: adam, sgd"),
        ("fit.epochs=0", "fit.epochs=0"),
        ("model=scenes_vgg", "CAM needs global average pooling"),
        ("fit.layer=nothing", "no layer 'nothing'"),
    ],
)
def test_faults_are_reported_before_training(tmp_path: Path, wrong: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, *CAM_LOSS, wrong))
    assert not (tmp_path / "fitted").exists()


def test_labels_in_tables() -> None:
    teacher = {"name": "resnet50", "_target_": "torchvision.models.resnet50"}
    assert [CAMLossFit("f", **given).label for given in ({"alpha": 0}, {}, {"teacher": teacher})] == [  # type: ignore[arg-type]
        "cross-entropy",
        "CAM-loss",
        "CAM-loss, teacher resnet50",
    ]
