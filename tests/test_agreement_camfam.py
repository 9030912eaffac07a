"""The CAM family since 2020 compared with libraries and formulas, on real networks in float64.

One is a network of the scenes; the other, if its weights are available, is MobileNetV2: batch norms, residual sums,
ReLU6. `scripts/agreement.py` compares the same pairs with more steps and images, and with the authors' code.
"""

import os
from functools import cache

import pytest
import references_authors as authors
import references_camfam
import references_camfam_more
import references_paths
import references_text
from references import Case, Pair, case_of, compare

pytestmark = pytest.mark.full

AUTHORS = (
    authors.GROUP,
    authors.RECIPRO,
    authors.OPTI,
    authors.POLY,
    authors.SALIENCY,
    authors.SOBOL,
    references_text.GSCORE,
)
PAIRS = [
    pair
    for pair in (
        *references_camfam.PAIRS,
        *references_camfam_more.PAIRS,
        *references_paths.PAIRS,
        *references_text.PAIRS,
    )
    if pair.reference not in AUTHORS
]


SHARED = os.environ.get("EIGENCAM_SHARED", "")
SCENES = ("scenes_vgg", "dataset=scenes", "dataset.count=8", "model.preprocess.size=64")
REAL = ("mobilenet_v2_tf", "dataset=ilsvrc", f"paths.ilsvrc={SHARED}/realdata", "model.preprocess.size=64",
        f"paths.weights={SHARED}/realdata/weights")  # fmt: skip
NETWORKS = [
    pytest.param(SCENES, id="scenes"),
    pytest.param(REAL, id="real", marks=pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set")),
]


@cache
def case(words: tuple[str, ...]) -> Case:
    return case_of(words[0], 1 if words == REAL else 2, words[1:])


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum's
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("words", NETWORKS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.name}-{pair.reference}")
def test_maps_agree_with_independent_code(pair: Pair, words: tuple[str, ...]) -> None:
    made = case(words)
    if why := pair.refusal(made.network):
        assert words == REAL, why
        pytest.skip(why)
    found = compare(pair, made)
    assert all(rho > 0.999 for rho in found.rhos if rho == rho)  # NaN: a map of no value
    assert max(found.differences) < {"decomcam": 1e-3}.get(pair.name, 5e-5)  # as in its row of agreement_camfam.csv
