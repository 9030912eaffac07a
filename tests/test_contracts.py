"""Every packaged method and evaluator keeps its contract: pyright checks the lists, and the tests their completeness.

`make types` reports a class that does not fit its protocol, for instance one without `needs_gradient`.
"""

import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from toys import ConvNet, make

from eigencam.evaluation.adversarial import Adversarial
from eigencam.evaluation.base import BoxEvaluator, Evaluator, JointEvaluator, NetworkEvaluator, PackagedEvaluator
from eigencam.evaluation.class_segmentation import ClassSegmentation
from eigencam.evaluation.evidence import Evidence
from eigencam.evaluation.faithfulness import Adcc, AverageDrop, InsertionDeletion, Road
from eigencam.evaluation.foreground import Foreground
from eigencam.evaluation.infidelity import Infidelity
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.localization_tuned import TunedLocalization
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.part_scores import PartScores
from eigencam.evaluation.pointing import Energy, Pointing
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.randomization import LabelRandomization, Randomization
from eigencam.evaluation.segmentation import Segmentation
from eigencam.evaluation.sensitivity import MaxSensitivity
from eigencam.evaluation.sparseness import Sparseness
from eigencam.methods import base
from eigencam.methods.ablationcam import AblationCAM
from eigencam.methods.acol import ACoL
from eigencam.methods.attention_relevance import GAE, LeGrad, TransformerAttribution
from eigencam.methods.attnlrp import AttnLRP
from eigencam.methods.augmented import AugmentedGradCAM
from eigencam.methods.base import Choosy, ChosenMethod, FixedMethod, FromFiles, Method, Prepared, WrappingMethod
from eigencam.methods.baselines import CenterBox, CenterGaussian, RandomMap, WholePicture
from eigencam.methods.blur_ig import BlurIG
from eigencam.methods.broadcam import BroadCAM
from eigencam.methods.cam import CAM
from eigencam.methods.decom import DecomCAM
from eigencam.methods.dff import DFF
from eigencam.methods.drise import DRISE
from eigencam.methods.edge_windows import EdgeWindows
from eigencam.methods.eigencam import EigenCAM
from eigencam.methods.eigencam_variants import KPCACAM, EigenGradCAM
from eigencam.methods.expected import ExpectedGradients
from eigencam.methods.fam import FAM, FAMSupport
from eigencam.methods.fem import FEM
from eigencam.methods.files import MapFiles
from eigencam.methods.finer import FinerCAM
from eigencam.methods.fixations import CNNFixations
from eigencam.methods.fullgrad import FullGrad
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, SmoothGradCAMPlusPlus, XGradCAM
from eigencam.methods.group import GroupCAM
from eigencam.methods.gscore import GScoreCAM
from eigencam.methods.guided_ig import GuidedIG
from eigencam.methods.input_gradients import Gradient, GuidedBackprop, GuidedGradCAM, IntegratedGradients, SmoothGrad
from eigencam.methods.integrated_gradcam import IntegratedGradCAM
from eigencam.methods.lcam import LCAM
from eigencam.methods.lift import LIFTCAM
from eigencam.methods.lime import LIME
from eigencam.methods.occlusion import Occlusion
from eigencam.methods.opti import OptiCAM
from eigencam.methods.optimised_masks import ExtremalPerturbation, MeaningfulPerturbation
from eigencam.methods.peers import Captum, PytorchGradCAM, TorchCAM
from eigencam.methods.poly import PolyCAM
from eigencam.methods.recipro import ReciproCAM
from eigencam.methods.refine import RefineCAM
from eigencam.methods.relevance import LRP, DeepLIFT, ExcitationBackprop
from eigencam.methods.relevance_cam import RelevanceCAM
from eigencam.methods.rise import RISE
from eigencam.methods.rollout import AttentionRollout
from eigencam.methods.scorecam import ISCAM, SSCAM, ScoreCAM
from eigencam.methods.selective_search import SelectiveSearch
from eigencam.methods.self_taught import SelfTaught
from eigencam.methods.sensitivity_indices import HSICAttribution, SobolAttribution
from eigencam.methods.sess import SESS
from eigencam.methods.shapcam import ShapCAM
from eigencam.methods.shapleycam import ShapleyCAM
from eigencam.methods.smoothing import AugSmooth, EigenSmooth, Smooth
from eigencam.methods.ventral import Ventral
from eigencam.methods.vitcx import ViTCX
from eigencam.methods.vscam import VSCAM
from eigencam.methods.windows import CenterWindows, RandomWindows, SlidingWindows
from eigencam.methods.xrai import XRAI
from eigencam.methods.zoom import ZoomCAM
from eigencam.store.build import find

ROOT = Path(__file__).parents[1]

FIXED: tuple[type[FixedMethod], ...] = (
    CenterBox,
    CenterGaussian,
    RandomMap,
    WholePicture,
    ACoL,
    BroadCAM,
    CAM,
    EigenGradCAM,
    KPCACAM,
    EdgeWindows,
    EigenCAM,
    FAM,
    FAMSupport,
    FEM,
    CNNFixations,
    GradCAM,
    GroupCAM,
    ReciproCAM,
    AugmentedGradCAM,
    BlurIG,
    DFF,
    DRISE,
    DecomCAM,
    GScoreCAM,
    GuidedIG,
    XRAI,
    HSICAttribution,
    SobolAttribution,
    ExpectedGradients,
    IntegratedGradCAM,
    LIFTCAM,
    OptiCAM,
    PolyCAM,
    RelevanceCAM,
    ZoomCAM,
    GradCAMPlusPlus,
    FullGrad,
    HiResCAM,
    LayerCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    SmoothGrad,
    LCAM,
    ExtremalPerturbation,
    MeaningfulPerturbation,
    TorchCAM,
    AblationCAM,
    ISCAM,
    Occlusion,
    RISE,
    SSCAM,
    ScoreCAM,
    ShapCAM,
    DeepLIFT,
    ExcitationBackprop,
    LRP,
    AttentionRollout,
    AttnLRP,
    GAE,
    LeGrad,
    TransformerAttribution,
    ViTCX,
    SelectiveSearch,
    Ventral,
    VSCAM,
    CenterWindows,
    RandomWindows,
    SlidingWindows,
)
CHOSEN: tuple[type[ChosenMethod], ...] = (
    MapFiles,
    LIME,
    Captum,
    PytorchGradCAM,
    SelfTaught,
)
WRAPPING: tuple[type[WrappingMethod], ...] = (
    AugSmooth,
    EigenSmooth,
    FinerCAM,
    RefineCAM,
    SESS,
    Smooth,
)
CHOOSY: tuple[type[Choosy], ...] = (
    ACoL,
    BroadCAM,
    CAM,
    CNNFixations,
    DFF,
    DRISE,
    FAMSupport,
    FullGrad,
    LCAM,
    Captum,
    PytorchGradCAM,
    TorchCAM,
    AblationCAM,
    ShapCAM,
    ReciproCAM,
    LIFTCAM,
    ZoomCAM,
    ExcitationBackprop,
    LRP,
    AttentionRollout,
    AttnLRP,
    GAE,
    LeGrad,
    TransformerAttribution,
    SelfTaught,
    Ventral,
    VSCAM,
    *WRAPPING,
)
PREPARED: tuple[type[Prepared], ...] = (MapFiles, *WRAPPING)
FROM_FILES: tuple[type[FromFiles], ...] = (
    BroadCAM,
    FAM,
    FAMSupport,
    MapFiles,
    LCAM,
    *WRAPPING,
)

EVALUATORS: tuple[type[PackagedEvaluator], ...] = (
    Adversarial,
    ClassSegmentation,
    Adcc,
    AverageDrop,
    InsertionDeletion,
    Road,
    Evidence,
    Foreground,
    Localization,
    TunedLocalization,
    MaxBoxAcc,
    Energy,
    Pointing,
    Proposals,
    PxAP,
    LabelRandomization,
    Randomization,
    Segmentation,
    Infidelity,
    MaxSensitivity,
    PartScores,
    Sparseness,
)
OF_ONE_MAP: tuple[type[Evaluator], ...] = (
    Evidence,
    Foreground,
    Localization,
    TunedLocalization,
    MaxBoxAcc,
    Energy,
    Pointing,
    Proposals,
    PxAP,
    Segmentation,
    Sparseness,
)
JOINT: tuple[type[JointEvaluator], ...] = (ClassSegmentation,)
ASKING: tuple[type[NetworkEvaluator], ...] = (
    Adversarial,
    Adcc,
    AverageDrop,
    InsertionDeletion,
    Road,
    LabelRandomization,
    Randomization,
    Infidelity,
    MaxSensitivity,
    PartScores,
)
OF_BOXES: tuple[type[BoxEvaluator], ...] = (
    Localization,
    Proposals,
)


def packaged(group: str) -> set[type]:
    """The classes of ours that the group's YAMLs name."""

    def nodes(folder: Traversable) -> Iterable[Any]:
        for item in folder.iterdir():
            if item.is_dir():
                yield from nodes(item)
            elif item.name.endswith(".yaml"):
                yield from OmegaConf.to_container(OmegaConf.create(item.read_text()), resolve=False).values()  # type: ignore[union-attr]

    found = nodes(files("eigencam.configs") / group)
    return {find(node["_target_"]) for node in found if node["_target_"].startswith("eigencam.")}


@pytest.mark.parametrize(
    ("group", "listed", "parts"),
    [
        ("method", (*FIXED, *CHOSEN, *WRAPPING), {"unsupported": CHOOSY, "lacking": PREPARED, "identity": FROM_FILES}),
        (
            "evaluator",
            EVALUATORS,
            {"row": OF_ONE_MAP, "joint_row": JOINT, "rows": ASKING, "row_of_boxes": OF_BOXES},
        ),
    ],
)
def test_the_lists_are_complete(group: str, listed: tuple[type, ...], parts: dict[str, tuple[type, ...]]) -> None:
    found = packaged(group)
    assert found == set(listed)
    for name, those in parts.items():
        assert {kind for kind in found if hasattr(kind, name)} == set(those), name


def test_an_evaluator_is_of_one_kind() -> None:
    assert sorted([*OF_ONE_MAP, *JOINT, *ASKING], key=str) == sorted(EVALUATORS, key=str)


def plain(forward: object, targets: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(targets), 2, 2)


class Speaking:
    """A method that says everything."""

    layer, layers = "a", ("b", "c")
    needs_gradient, class_specific, gives_boxes, baseline, constant_by_design = False, False, True, True, True

    def __call__(self, forward: object, targets: torch.Tensor) -> list[Any]:
        return [np.zeros((0, 5)) for _ in targets]

    def unsupported(self, network: object) -> str:
        return f"not {network}"

    def lacking(self, ids: Iterable[str]) -> str:
        return " ".join(ids)

    def identity(self) -> dict[str, Any]:
        return {"file": "abc"}


@pytest.mark.parametrize(
    ("read", "silent", "said"),
    [
        (base.tapped, [], ["a", "b", "c"]),
        (base.needs_gradient, True, False),
        (base.is_class_specific, True, False),
        (base.gives_boxes, False, True),
        (base.is_baseline, False, True),
        (base.is_constant_by_design, False, True),
        (base.content_of, {}, {"file": "abc"}),
        (lambda m: base.stated_refusal(m, "net"), "", "not net"),  # type: ignore[arg-type]
        (lambda m: base.lack_of(m, ["x", "y"]), "", "x y"),
    ],
)
def test_what_a_method_does_not_say_has_a_default(read: Any, silent: object, said: object) -> None:
    assert read(plain) == silent
    assert read(Speaking()) == said


def test_a_method_of_boxes_has_no_maps() -> None:
    forward, targets = make(ConvNet()), torch.zeros(5, dtype=torch.long)
    assert base.maps_of(plain, forward, targets).shape == (5, 2, 2)
    boxes: Method = Speaking()
    with pytest.raises(ValueError, match="Speaking gives list; maps are needed"):
        base.maps_of(boxes, forward, targets)


def test_contracts_are_read_in_one_place() -> None:
    """No other module reads attributes of methods or evaluators by a quoted name."""
    names = r"unsupported|lacking|needs_gradient|class_specific|gives_boxes|baseline|constant_by_design"
    names += r"|headline|row_of_boxes|joint_row|rows|curves|sources"
    asked = re.compile(rf"""(?:get|has)attr\([^()]*(?:\([^()]*\)[^()]*)*,\s*["'](?:{names})["']""")
    readers = {"eigencam/methods/base.py", "evaluation/base.py"}
    sources = [p for top in ("eigencam", "evaluation", "datasets", "scripts") for p in (ROOT / top).rglob("*.py")]
    assert {str(p.relative_to(ROOT)) for p in sources if asked.search(p.read_text())} == readers
