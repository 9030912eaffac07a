"""The CAM family since 2020 compared with libraries and formulas, on a network of the scenes in float64.

`scripts/agreement.py` compares the same pairs on networks with real weights, and with the authors' code.
"""

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


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of("scenes_vgg", 2, ["dataset=scenes", "dataset.count=8", "model.preprocess.size=64"])


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum's
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.name}-{pair.reference}")
def test_maps_agree_with_independent_code(pair: Pair, case: Case) -> None:
    if why := pair.refusal(case.network):
        pytest.fail(why)
    found = compare(pair, case)
    assert all(rho > 0.999 for rho in found.rhos if rho == rho)  # NaN: a map of no value
    assert max(found.differences) < 5e-5
