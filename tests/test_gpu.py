"""Every method, evaluator and entry point on a simulated GPU: no devices are mixed, no cost grows with the batch, and
the numbers are those of the CPU. docs/performance.md lists what makes the host wait."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_evaluators import _few as few_of_evaluator
from golden_evaluators import samples
from golden_methods import LABELS, inputs, nodes
from method_trials import METHODS, TYPES, home, maps, method, network
from pretend_gpu import Ledger, MixedDevicesError, pretend_gpu
from torch import Tensor

from eigencam.evaluation.base import asks_network
from eigencam.evaluation.maps import ScoreMap
from eigencam.methods.eigencam import ROUNDING, squared
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.refusal import refusal
from eigencam.networks.network import Network
from eigencam.passes.prediction_states import answer_states
from eigencam.running.batch_maps import compute_maps
from eigencam.running.probe import BatchProbe
from eigencam.store.build import find, instantiate
from eigencam.transfer import to_device, to_host

pytestmark = pytest.mark.full

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
TWO, EIGHT = (0, 1), (0, 1) * 4
ON_EVERY_TYPE = ("eigencam", "gradcam", "layercam", "gradient", "scorecam")
ASKING = [name for name, node in nodes("evaluator").items() if hasattr(find(node["_target_"]), "rows")]


@contextmanager
def counted(ledger: Ledger, into: dict[str, int]) -> Iterator[None]:
    """Record the device's work inside the block in a dict."""
    ledger.clear()
    yield
    into |= ledger.counts()


def table() -> dict[str, list[str]]:
    """The rows of the page's table by name: waits, copies in, copies out, float64, grows."""
    section = DOCUMENT.read_text().split("## On a GPU")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    named = [(name, row) for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert len(dict(named)) == len(named), "named twice"
    return {name: row[1:6] for name, row in named}


def check(option: str, ledger: Ledger, few: Mapping[str, int], many: Mapping[str, int]) -> None:
    """Compare the device's work with the table; anything not listed has one copy each way and one wait."""
    row, where = told(ledger, few, many), f"docs/performance.md, On a GPU; {dict(ledger.where)}"
    if option in table():
        assert row == table()[option], where
    else:
        assert all(int(count) <= 1 for count in row[:3]), where
        assert row[3:] == ["", ""], where


def told(ledger: Ledger, few: Mapping[str, int], many: Mapping[str, int]) -> list[str]:
    """A row of the table, as measured; "" for one copy in, one copy out and one wait per batch."""
    waits, copies_in, copies_out = (many[kind] for kind in ("waits", "copies_in", "copies_out"))
    grows = any(many[kind] > few[kind] for kind in many)
    return [str(waits), str(copies_in), str(copies_out), "yes" if ledger.doubles else "", "yes" if grows else ""]


@pytest.mark.parametrize("option", METHODS)
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum's
def test_every_method(option: str) -> None:
    name = home(option)
    expected = maps(network(name, "cpu"), option, EIGHT)
    few, many = dict[str, int](), dict[str, int]()
    with pretend_gpu() as ledger:
        used = network(name, "cuda")
        assert not refusal(method(option), used)
        with counted(ledger, few):  # this includes what is copied once
            maps(used, option, TWO)
        with counted(ledger, many):
            found = maps(used, option, EIGHT)
    for one, other in zip(found.maps.values(), expected.maps.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    for one, other in zip(found.boxes.get("m", []), expected.boxes.get("m", []), strict=True):
        np.testing.assert_allclose(one, other)
    assert (found.targets, found.top5, found.answers) == (expected.targets, expected.top5, expected.answers)
    check(option, ledger, few, many)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_network(name: str) -> None:
    on_cpu = network(name, "cpu")
    options = [option for option in ON_EVERY_TYPE if not refusal(method(option), on_cpu)]
    expected = {option: maps(on_cpu, option, TWO).maps["m"] for option in options}
    with pretend_gpu():
        used = network(name, "cuda")
        assert used.layer == on_cpu.layer
        assert [option for option in ON_EVERY_TYPE if not refusal(method(option), used)] == options
        for option in options:
            found = maps(used, option, TWO).maps["m"]
            np.testing.assert_allclose(found, expected[option], rtol=1e-4, atol=1e-5 * np.abs(found).max())


def probe(used: Network, count: int) -> tuple[np.ndarray, BatchProbe]:
    """Grad-CAM's maps, and what an evaluator requests."""
    gradcam = GradCAM()
    found = compute_maps(
        used,
        {"m": gradcam},
        inputs(used.preprocess.shape[0]).repeat(count // 2, 1, 1, 1),
        labels=list(LABELS[used.name]) * (count // 2),
        chunk=10**6,
    )
    truths = [replace(samples()[n % 2][1], label=int(LABELS[used.name][n % 2])) for n in range(count)]
    score_maps = [ScoreMap(m, truth.size) for m, truth in zip(found.maps["m"], truths, strict=True)]
    return found.maps["m"], BatchProbe(found.forward, gradcam, found.asked, score_maps, truths, (gradcam,))


@pytest.mark.parametrize("option", ASKING)
def test_every_evaluator_that_asks_the_network(option: str) -> None:
    evaluator = instantiate(few_of_evaluator(nodes("evaluator")[option]))
    assert asks_network(evaluator)
    expected = evaluator.rows(*probe(network("scenes_resnet", "cpu"), 8))
    few, many = dict[str, int](), dict[str, int]()
    with pretend_gpu() as ledger:
        used = network("scenes_resnet", "cuda")
        asked = probe(used, 2)  # the costs include what is copied once
        with counted(ledger, few):
            evaluator.rows(*asked)
        asked = probe(used, 8)
        with counted(ledger, many):
            found = evaluator.rows(*asked)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for column, value in one.items():
            if isinstance(value, str | bool):
                assert value == other[column]
            else:
                np.testing.assert_allclose(value, other[column], rtol=1e-3, atol=1e-5)
    check(option, ledger, few, many)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("option", METHODS)
def test_every_method_on_a_gpu_that_is_there(option: str) -> None:
    """Maps as on the CPU, and no more waits than in the table; torch warns about synchronisations."""
    expected, used = maps(network(home(option), "cpu"), option, EIGHT), network(home(option), "cuda:0")
    maps(used, option, EIGHT)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = maps(used, option, EIGHT)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found.maps.values(), expected.maps.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3 * np.abs(other).max())
    waits = [str(warning.message) for warning in seen if "synchroniz" in str(warning.message)]
    assert len(waits) <= int(table().get(option, ["1"])[0]), waits


def test_the_table_names_nothing_else() -> None:
    assert table().keys() <= {*METHODS, *ASKING}


@pytest.mark.parametrize(("rows", "columns"), [(49, 300), (196, 40), (5, 4)])
def test_an_eigenvector_without_a_wait(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, rows, columns, generator=generator)
    x[1] -= x[1].mean(1, keepdim=True)
    x[2], x[3, 1:] = 0, 0
    x[4] = torch.eye(rows, columns)  # no vector is the first
    gram = x @ x.mT
    vector, gap = squared(gram)
    values, vectors = torch.linalg.eigh(gram.double())
    agreement = (vector * vectors[:, :, -1]).sum(1).abs()
    torch.testing.assert_close(agreement[[0, 1, 3, 5]], torch.ones(4, dtype=torch.float64), atol=1e-6, rtol=0)
    expected = ((values[:, -1] - values[:, -2]) / values[:, -1]).float()
    torch.testing.assert_close(gap[[0, 1, 3, 5]], expected[[0, 1, 3, 5]], atol=1e-5, rtol=0)
    assert gap[2] == torch.inf
    assert gap[4] <= ROUNDING


# The simulated GPU itself


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here[there.long()],
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: there.index_put_((there.long(),), here),
    ],
)
def test_two_devices_do_not_mix(mixed: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pretend_gpu(), pytest.raises(MixedDevicesError):
        mixed(torch.ones(2), torch.ones(2, device="cuda"))


def test_numbers_and_indices_of_the_host_may_go_along() -> None:
    with pretend_gpu() as ledger:
        there = torch.arange(4.0, device="cuda")
        assert (there * torch.tensor(2.0)).device == torch.device("cuda", 0)
        assert ledger.counts() == {"operations": 2, "copies_in": 0, "copies_out": 0, "waits": 0}
        there[torch.tensor([0, 1])]
        assert (ledger.copies_in["waiting"], ledger.waits.total()) == (1, 1)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: bool(x[0] > 0),
        lambda x: x.cpu(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.long, device="cuda")),
        lambda x: torch.tensor([1.0], device="cuda"),
    ],
)
def test_the_host_waits(look: Callable[[Tensor], object]) -> None:
    with pretend_gpu() as ledger:
        there = torch.arange(4.0, device="cuda")
        ledger.clear()
        look(there)
        assert ledger.waits.total() == 1


def test_numpy_takes_no_tensor_of_the_device() -> None:
    with pretend_gpu(), pytest.raises(TypeError, match="can't convert cuda:0"):
        torch.ones(2, device="cuda").numpy()


def test_what_was_not_waited_for_holds_nothing() -> None:
    with pretend_gpu():
        here = torch.ones(2, device="cuda").to("cpu", non_blocking=True)
        assert here.isnan().all()
        torch.cuda.synchronize()
        assert here.tolist() == [1.0, 1.0]


# Between host and device


def test_tensors_travel_together() -> None:
    parts = [torch.arange(5), torch.rand(2, 3), torch.tensor([True, False]), torch.zeros(0, 4), torch.ones(3).byte()]
    with pretend_gpu() as ledger:
        there = to_device(torch.device("cuda"), *parts)
        assert ledger.counts() | {"operations": 0} == {"operations": 0, "copies_in": 1, "copies_out": 0, "waits": 0}
        assert all(t.is_cuda for t in there)
        wait = to_host(*there)
        assert (ledger.copies_out["free"], ledger.waits.total()) == (1, 0)
        back = wait()
        assert ledger.waits.total() == 1
    for one, other in zip(back, parts, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


def test_on_the_cpu_nothing_is_copied() -> None:
    x = torch.rand(3)
    assert to_device(x.device, x)[0] is x
    assert to_host(x)()[0].data_ptr() == x.data_ptr()


def test_states_of_answers_need_one_copy() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, torch.nan]])
    with pretend_gpu() as ledger:
        there = logits.to("cuda")
        ledger.clear()
        assert answer_states(there) == answer_states(logits)
        assert ledger.waits.total() == 1
