"""Networks with other weights: which layers, in which order, which tensors are shared; and the sanity checks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.randomization import LabelRandomization, Randomization
from eigencam.methods.base import Method
from eigencam.networks.randomized import groups, layers_from_output, randomised, reweighted
from eigencam.networks.scenes import ScenesResNet
from eigencam.passes.forward import Forward, forward_pass
from eigencam.running.probe import BatchProbe
from eigencam.running.run import run

SHAPE = (32, 32)


def resnet() -> ScenesResNet:
    torch.manual_seed(0)
    net = ScenesResNet().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.fill_(0.5)  # type: ignore[union-attr]
    return net


def same(a: nn.Module, b: nn.Module, name: str) -> bool:
    one, other = a.get_submodule(name).state_dict(), b.get_submodule(name).state_dict()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_layers_are_counted_from_the_output_as_they_are_called() -> None:
    names = layers_from_output(resnet(), SHAPE)
    assert names[:4] == ["fc", "layer3.0.downsample.1", "layer3.0.downsample.0", "layer3.0.bn2"]
    assert names[-2:] == ["bn1", "conv1"]

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).mean((2, 3)))

    assert layers_from_output(Backwards(), SHAPE) == ["last", "first"]


@pytest.mark.parametrize("stages", [1, 2, 3, 6, 18, 100, 0])
def test_groups_are_all_layers_once_and_about_equal(stages: int) -> None:
    names = [str(i) for i in range(18)]
    found = list(groups(names, stages))
    assert len(found) == (18 if stages == 0 else min(stages, 18))
    assert found[0] == ["0"]
    if stages != 1:
        assert [name for group in found for name in group] == names
        sizes = [len(group) for group in found[1:]]
        assert max(sizes) - min(sizes) <= 1


def test_a_cascade_changes_more_and_more_and_shares_the_rest() -> None:
    net = resnet()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    names = layers_from_output(net, SHAPE)
    made = randomised(net, "cascading", 0, 0, SHAPE)
    assert [name for name, _ in made] == names
    for k, (_, fresh) in enumerate(made):
        for i, name in enumerate(names):
            assert same(fresh, net, name) == (i > k), (k, name)
            for one, other in zip(
                fresh.get_submodule(name).parameters(), net.get_submodule(name).parameters(), strict=True
            ):
                assert (one is other) == (i > k)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert randomised(net, "cascading", 0, 0, SHAPE)[3][1] is made[3][1]  # made once


def test_independent_stages_change_one_group_with_the_same_weights_as_the_cascade() -> None:
    net = resnet()
    cascade = dict(randomised(net, "cascading", 0, 7, SHAPE))
    for name, fresh in randomised(net, "independent", 0, 7, SHAPE):
        assert [n for n in layers_from_output(net, SHAPE) if not same(fresh, net, n)] == [name]
        assert same(fresh, cascade[name], name)
    (_, other) = randomised(net, "independent", 0, 8, SHAPE)[0]
    assert not same(other, cascade["fc"], "fc")


def test_batch_normalisations_forget_their_statistics_and_loose_parameters_are_shuffled() -> None:
    net = resnet()
    fresh = dict(randomised(net, "independent", 0, 0, SHAPE))["bn1"].get_submodule("bn1")
    assert fresh.running_mean.abs().sum() == 0  # type: ignore[union-attr,operator]
    torch.manual_seed(1)
    vit = VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=4).eval()
    nn.init.normal_(vit.encoder.pos_embedding)
    names = layers_from_output(vit, SHAPE)
    assert names[0] == "heads.head"
    assert set(names[-3:]) >= {"", "conv_proj"}
    embedding = dict(randomised(vit, "cascading", 0, 0, SHAPE))["encoder"].get_submodule("encoder").pos_embedding
    assert isinstance(embedding, Tensor)
    assert not torch.equal(embedding, vit.encoder.pos_embedding)
    torch.testing.assert_close(embedding.flatten().sort()[0], vit.encoder.pos_embedding.flatten().sort()[0])


def first_layer(forward: Forward, targets: Tensor) -> Tensor:
    return forward.activations("layer1").mean(1)


def logit(forward: Forward, targets: Tensor) -> Tensor:
    return forward.logits[:, :4].view(-1, 2, 2)


first_layer.layer = "layer1"  # type: ignore[attr-defined]


def probe(net: nn.Module, method: Method) -> BatchProbe:
    images = torch.randn(3, 3, *SHAPE, generator=torch.Generator().manual_seed(2))
    forward = forward_pass(net, images, "layer3", layers=["layer1"])
    score_maps = [ScoreMap(np.arange(4.0).reshape(2, 2), SHAPE)] * 3
    return BatchProbe(forward, method, torch.tensor([0, 1, 2]), score_maps, beside=(first_layer, logit))


def test_maps_in_front_of_the_new_layers_stay_and_others_are_those_of_the_new_network() -> None:
    net = resnet()
    for method in (first_layer, logit):
        p = probe(net, method)
        own = method(p.forward, p.targets).numpy()
        evaluator = Randomization(stages=0)
        frame = pd.DataFrame(evaluator.rows(own, p))
        names = layers_from_output(net, SHAPE)
        first = next(k for k, name in enumerate(names) if name.startswith("layer1"))
        ranks = np.stack(frame["rank"].to_list())
        assert ranks.shape == (3, len(names))
        if method is first_layer:
            np.testing.assert_allclose(ranks[:, :first], 1)
            assert (ranks[:, -1] < 0.99).all()
        else:
            fresh = randomised(net, "cascading", 0, 0, SHAPE)[2][1]
            logits = fresh(p.images)[:, :4].detach().numpy()
            for n in range(3):
                assert ranks[n, 2] == pytest.approx(spearmanr(own[n].ravel(), logits[n])[0])
                assert frame["rank_abs"][n][2] == pytest.approx(spearmanr(abs(own[n].ravel()), abs(logits[n]))[0])
        found = {metric.name: metric for metric in evaluator.summary(frame)}
        assert found["rank_output"].value == pytest.approx(ranks[:, 0].mean())
        assert found["rank_last"].value == found[f"rank_{len(names)}"].value == pytest.approx(ranks[:, -1].mean())
        assert found["rank_last"].threshold == "new weights down to conv1"
        assert found["rank_mean"].value == pytest.approx(ranks.mean())


def test_a_stage_is_one_pass_for_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    net = resnet()
    p = probe(net, first_layer)
    passes: list[nn.Module] = []
    original = Forward.repeat

    def counted(self: Forward, *args: object, **kwargs: object) -> Forward:
        passes.append(kwargs["module"])  # type: ignore[arg-type]
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Forward, "repeat", counted)
    for method in (first_layer, logit):
        BatchProbe(p.forward, method, p.targets, p.score_maps, beside=(first_layer, logit)).randomised(
            "cascading", 4, 0
        )
    assert len(passes) == 4


def test_a_map_without_variation_is_left_out_of_the_mean() -> None:
    p = probe(resnet(), first_layer)
    own = first_layer(p.forward, p.targets).numpy()
    own[1] = 0
    frame = pd.DataFrame(Randomization(stages=3, structure=True).rows(own, p))
    found = {metric.name: metric for metric in Randomization(stages=3).summary(frame)}
    assert found["rank_output"].n == found["rank_mean"].n == found["ssim_mean"].n == 2
    assert found["ssim_output"].value == pytest.approx(1)
    assert found["hog_output"].value == pytest.approx(1)


def test_the_weights_of_another_file_are_compared(tmp_path: Path) -> None:
    net = resnet()
    torch.manual_seed(5)
    other = ScenesResNet().eval()
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    p = probe(net, logit)
    own = logit(p.forward, p.targets).numpy()
    rows = LabelRandomization(str(tmp_path / "other.safetensors")).rows(own, p)
    logits = other(p.images)[:, :4].detach().numpy()
    for n in range(3):
        assert rows[n]["rank"] == pytest.approx(spearmanr(own[n].ravel(), logits[n])[0])
    few_classes = resnet()
    few_classes.fc = nn.Linear(128, 3)
    with pytest.raises(ValueError, match="do not fit"):
        reweighted(few_classes, str(tmp_path / "other.safetensors"))


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="cascading, independent"):
        Randomization(order="upwards")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stages=-1"):
        Randomization(stages=-1)


def test_weights_that_do_not_fit_are_told_before_the_run(tmp_path: Path) -> None:
    save_file(resnet().state_dict(), tmp_path / "other.safetensors")
    overrides = ["model=scenes_vgg", "dataset.count=3", "workers=0", f"paths.results={tmp_path}", "device=cpu"]
    overrides += [f"evaluator.label_randomization.weights={tmp_path}/other.safetensors"]
    with (
        initialize_config_module("eigencam.configs", version_base="1.3"),
        pytest.raises(ValueError, match=r"evaluator\.label_randomization: .*none of its names is the network's"),
    ):
        run(compose("run", ["evaluator=[label_randomization]", *overrides, "method=[eigencam]"]))
