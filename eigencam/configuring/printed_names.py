"""Names as papers print them: `gradcampp` is Grad-CAM++, `top1_loc_error` is Top-1 loc. err.

A name without an entry is printed as stored, that of a metric with spaces. Parameters behind a name are kept:
`gradcam (alpha=1)` is `Grad-CAM (alpha=1)`.
"""

import re
from collections.abc import Callable, Mapping

METHODS = {
    "ablationcam": "Ablation-CAM",
    "acol": "ACoL",
    "attnlrp": "AttnLRP",
    "aug_smooth": "Aug-smooth",
    "augmented_gradcam": "Augmented Grad-CAM",
    "blur_ig": "Blur IG",
    "broadcam": "BroadCAM",
    "cam": "CAM",
    "captum": "Captum",
    "center_box": "Centred box",
    "center_gaussian": "Centred Gaussian",
    "center_windows": "Centred windows",
    "cmwp": "c-MWP",
    "cnn_fixations": "CNN-Fixations",
    "cp_lrp": "CP-LRP",
    "cp_lrp_gamma": "CP-LRP-γ",
    "decomcam": "DecomCAM",
    "deconvnet": "DeconvNet",
    "deeplift": "DeepLIFT",
    "dff": "DFF",
    "drise": "D-RISE",
    "edge_windows": "Edge windows",
    "eigen_smooth": "Eigen-smooth",
    "eigencam": "Eigen-CAM",
    "eigencam_centered": "Eigen-CAM (centred)",
    "eigengradcam": "EigenGrad-CAM",
    "expected_gradients": "Expected gradients",
    "extremal_perturbation": "Extremal perturbation",
    "fam_reading": "FAM (a reading)",
    "fam_support_reading": "FAM, support (a reading)",
    "fem": "FEM",
    "fem_share": "FEM (share)",
    "files": "Maps from files",
    "finercam": "Finer-CAM",
    "finercam_mean": "Finer-CAM (mean)",
    "fullgrad": "FullGrad",
    "gae": "GAE",
    "gradcam": "Grad-CAM",
    "gradcampp": "Grad-CAM++",
    "gradient": "Gradient",
    "groupcam": "Group-CAM",
    "gscorecam": "gScoreCAM",
    "guided_backprop": "Guided Backprop",
    "guided_gradcam": "Guided Grad-CAM",
    "guided_ig": "Guided IG",
    "hirescam": "HiResCAM",
    "hsic": "HSIC",
    "integrated_gradcam": "Integrated Grad-CAM",
    "integrated_gradients": "Integrated Gradients",
    "iscam": "IS-CAM",
    "kpcacam": "KPCA-CAM",
    "kpcacam_rbf": "KPCA-CAM (RBF)",
    "layercam": "LayerCAM",
    "lcam_fm": "L-CAM-Fm",
    "lcam_img": "L-CAM-Img",
    "legrad": "LeGrad",
    "liftcam": "LIFT-CAM",
    "lime": "LIME",
    "lime_verification_reading": "LIME, verification (a reading)",
    "lrp": "LRP",
    "lrp_alphabeta": "LRP-αβ",
    "lrp_epsilon": "LRP-ε",
    "lrp_gamma": "LRP-γ",
    "lrp_zplus": "LRP-z+",
    "mask": "Meaningful perturbation",
    "mwp": "Excitation Backprop",
    "occlusion": "Occlusion",
    "opticam": "Opti-CAM",
    "polycam": "Poly-CAM",
    "pytorch_grad_cam": "pytorch-grad-cam",
    "random": "Random",
    "random_windows": "Random windows",
    "reciprocam": "Recipro-CAM",
    "refinecam": "Refine-CAM",
    "refinecam_input": "Refine-CAM (input)",
    "relevance_cam": "Relevance-CAM",
    "rise": "RISE",
    "rollout": "Attention rollout",
    "scorecam": "Score-CAM",
    "seg_eigencam": "Seg-Eigen-CAM",
    "selective_search": "Selective Search",
    "sess": "SESS",
    "shapcam": "Shap-CAM",
    "shapleycam": "ShapleyCAM",
    "sliding_windows": "Sliding windows",
    "smooth": "Noise-smooth",
    "smoothgrad": "SmoothGrad",
    "smoothgradcampp": "Smooth Grad-CAM++",
    "sobol": "Sobol",
    "sscam": "SS-CAM",
    "stl_cl": "STL-CL",
    "stl_wl": "STL-WL",
    "torchcam": "torchcam",
    "transformer_attribution": "Transformer attribution",
    "ventral_reading": "Ventral (a reading)",
    "vitcx": "ViT-CX",
    "vscam_reading": "VS-CAM (a reading)",
    "whole_picture": "Whole image",
    "xgradcam": "XGrad-CAM",
    "xrai": "XRAI",
    "zoomcam": "Zoom-CAM",
}

_Form = str | Callable[[re.Match[str]], str]

_METRICS: tuple[tuple[str, _Form], ...] = (
    (r"top(\d+)_loc_error", r"Top-\1 loc. err."),
    (r"top(\d+)_cls_error", r"Top-\1 cls. err."),
    (r"gt_known_error", "GT-known err."),
    (r"box_error", "Box err."),
    (r"box_error_(before|after)", r"Box err. \1"),
    (r"box_error_(before|after)_fooled", r"Box err. \1, fooled"),
    (r"box_error_change", "Change of box err."),
    (r"box_error_change_fooled", "Change of box err., fooled"),
    (r"error", "Err."),
    (r"error_best", "Err., best threshold"),
    (r"mean_iou", "Mean IoU"),
    (r"fg_iou", "Foreground IoU"),
    (r"fg_iou_best", "Foreground IoU, best threshold"),
    (r"miou", "mIoU"),
    (r"miou_binary", "mIoU, two classes"),
    (r"miou_best", "mIoU, best threshold"),
    (r"class_miou", "Class mIoU"),
    (r"class_miou_(best|tuned)", r"Class mIoU, \1 threshold"),
    (r"precision_eer", "Precision at EER"),
    (r"recall([1-9])0_(\d+)", r"Recall@\2, IoU 0.\1"),
    (r"mean_recall([1-9])0_(\d+)", r"Mean recall@\2, IoU 0.\1"),
    (r"ar_(\d+)", r"AR@\1"),
    (r"ar_coco_(\d+)", r"AR@\1 (COCO)"),
    (r"(m?abo|adcc|road)", lambda found: found[1].upper()),
    (r"road_(mo|le)rf", lambda found: f"ROAD ({found[1].capitalize()}RF)"),
    (r"boxes", "Boxes per image"),
    (r"pointing_accuracy", "Pointing acc."),
    (r"pointing_hits", "Pointing hits"),
    (r"energy_inside", "Energy inside"),
    (r"(insertion|deletion)_auc", lambda found: f"{found[1].capitalize()} AUC"),
    (r"drop_100", "Average drop"),
    (r"increase_100", "Increase in confidence"),
    (r"win_100", "Win"),
    (r"(drop|increase|win)_(\d+)", lambda found: f"{found[1].capitalize()}, {found[2]} % of pixels"),
    (r"max_box_acc(?:_plain)?", "MaxBoxAcc"),
    (r"max_box_acc_v2", "MaxBoxAccV2"),
    (r"max_box_acc_v2_([1-9])0", r"MaxBoxAccV2, IoU 0.\1"),
    (r"overlap_([\d.]+)", r"Overlap, threshold \1"),
    (r"rank_correlation", "Rank correlation"),
    (r"rank", "Rank corr."),
    (r"rank_abs", "Rank corr., absolute"),
    (r"rank_abs_(\w+)", r"Rank corr., absolute, \1"),
    (r"rank_(\w+)", r"Rank corr., \1"),
    (r"pxap", "PxAP"),
    (r"mean_ap", "Mean AP"),
    (r"mean_f1", "Mean F1"),
    (r"l2", "L2"),
    (r"linf", "L∞"),
    (r"relative_l2", "Relative L2"),
)

_NETWORKS: tuple[tuple[str, _Form], ...] = (
    (r"resnet(\d+)", r"ResNet-\1"),
    (r"wide_resnet(\d+)_(\d+)", r"Wide ResNet-\1-\2"),
    (r"resnext(\d+)_.*", r"ResNeXt-\1"),
    (r"vgg(\d+)", r"VGG-\1"),
    (r"vgg(\d+)_bn", r"VGG-\1-BN"),
    (r"densenet(\d+)", r"DenseNet-\1"),
    (r"squeezenet(\d)_(\d)", r"SqueezeNet \1.\2"),
    (r"inception_v3", "Inception-v3"),
    (r"mobilenet_v(\d)", r"MobileNetV\1"),
    (r"efficientnet_(b\d)", lambda found: f"EfficientNet-{found[1].upper()}"),
    (r"vit_([a-z])_(\d+)", lambda found: f"ViT-{found[1].upper()}/{found[2]}"),
    (r"convnext_(\w+)", lambda found: f"ConvNeXt-{found[1].capitalize()}"),
    (r"alexnet", "AlexNet"),
    (r"googlenet", "GoogLeNet"),
    (r"googlenet_bvlc", "GoogLeNet (BVLC)"),
    (r"scenes_(vgg)", "Scenes VGG"),
    (r"scenes_(resnet)", "Scenes ResNet"),
)

_DATASETS: tuple[tuple[str, _Form], ...] = (
    (r"ilsvrc", "ILSVRC"),
    (r"voc(\d{4})(?:_seg)?", r"PASCAL VOC \1"),
    (r"coco_(\D+)(\d{4})", r"COCO \2 \1"),
    (r"cub", "CUB-200-2011"),
    (r"scenes", "the generated scenes"),
)

_EVALUATORS: tuple[tuple[str, _Form], ...] = (
    (r"maxboxacc(?:_plain)?", "MaxBoxAcc"),
    (r"maxboxacc_v2", "MaxBoxAccV2"),
    (r"pointing", "Pointing game"),
    (r"(pxap|road|adcc|fgsm|pgd)", lambda found: found[1].upper().replace("PXAP", "PxAP")),
)

_TARGETS: tuple[tuple[str, _Form], ...] = (
    (r"ground_truth", "the true class"),
    (r"predicted", "the predicted class"),
    (r"each", "each class in the image"),
)

_PATTERNS: Mapping[str, tuple[tuple[str, _Form], ...]] = {
    "metric": _METRICS,
    "network": _NETWORKS,
    "dataset": _DATASETS,
    "evaluator": _EVALUATORS,
    "target": _TARGETS,
}
_SPACED = ("metric", "evaluator", "heading", "parameter")
"""Kinds in which a name without an entry is printed with spaces for underscores; all but the last are capitalised."""


def printed(kind: str, name: str, renamed: Mapping[str, str] | None = None) -> str:
    """Return a name as a paper prints it.

    Args:
        kind: `method`, `metric`, `network`, `dataset`, `evaluator`, `target`, `heading` of a column, or a parameter.
        name: as stored, with or without parameters behind it.
        renamed: names to print in place of others, keyed by the stored or the printed name.

    >>> printed("method", "gradcampp"), printed("metric", "top1_loc_error"), printed("network", "resnet50")
    ('Grad-CAM++', 'Top-1 loc. err.', 'ResNet-50')
    """
    plain, bracket, parameters = name.partition(" (")
    part = re.fullmatch(r"(.+)_(right|wrong)", plain) if kind == "metric" else None
    base = part[1] if part else plain
    shown = METHODS.get(base, base) if kind == "method" else _matched(kind, base)
    shown += f", prediction {part[2]}" if part else ""
    for own in (name, plain, shown):
        if renamed and own in renamed:
            shown = renamed[own]
            return shown if own == name else f"{shown}{bracket}{parameters}"
    return f"{shown}{bracket}{parameters}"


def _matched(kind: str, name: str) -> str:
    """Return a name by the first matching pattern of its kind; otherwise with spaces."""
    for pattern, form in _PATTERNS.get(kind, ()):
        if found := re.fullmatch(pattern, name):
            return form(found) if callable(form) else found.expand(form)
    if kind not in _SPACED:
        return name
    spaced = name.replace("_", " ")
    return spaced if kind == "parameter" else spaced[:1].upper() + spaced[1:]
