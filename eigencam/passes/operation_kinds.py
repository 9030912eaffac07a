"""Kinds of operations by their effect on values, and how torch's names and arguments determine them."""

from collections.abc import Mapping
from typing import Any

LINEAR = frozenset(("same", "reshape", "cat", "sum", "scale", "mean", "avg_pool2d", "pad", "interpolate"))
"""Linear in the values of the image, without a weight: their own gradients distribute relevance proportionally."""

AFFINE = LINEAR | {"shift", "fill", "conv2d", "linear", "batch_norm", "convolution", "matmul"}
"""Linear except for a constant. `fill` replaces values by constants or adds constants beside them, `matmul` is any
product with a constant (with two values of the image it is a `matrix_product`), `convolution` any except `conv2d`."""

RECTIFIERS = frozenset(("relu", "relu6"))
"""max(x, 0), and the same clipped at a positive number."""

MAXIMA = frozenset(("max_pool2d", "adaptive_max_pool2d", "amax"))

LEAKY = frozenset(("leaky_relu", "prelu"))

SIGN_KEEPING = frozenset(("relu6", "hardtanh", "tanh", "softsign", "elu", "selu", "celu", "rrelu", *LEAKY))
"""Increasing functions of one variable that are 0 at 0, so they keep the sign of their input. `hardtanh` is any
`clamp` with 0 between its bounds that is not a rectifier."""

ELEMENTWISE = (
    RECTIFIERS
    | LEAKY
    | frozenset(
        (
            *("elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "logsigmoid"),
            *("softplus", "softsign", "tanh", "tanhshrink", "softshrink", "hardshrink", "threshold", "clamp"),
            *("hardtanh", "rrelu"),
            *("abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "pow", "erf", "reciprocal"),
            *("sin", "cos", "maximum", "minimum", "round", "floor", "ceil", "sign"),
        )
    )
)
"""Functions of one variable, applied elementwise."""

JUMPS = frozenset(("threshold", "hardshrink", "round", "floor", "ceil", "sign"))
"""Discontinuous functions of one variable: a gradient does not see their jumps."""

NORMALIZATIONS = frozenset(("local_response_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"))

KNOWN = AFFINE | ELEMENTWISE | MAXIMA | NORMALIZATIONS

CONSTANT = frozenset(
    (
        *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones"),
        *("new_full", "new_empty", "new_tensor", "size", "dim", "numel", "requires_grad_", "is_floating_point"),
    )
)
"""They read the shape of a value, not the value."""

READINGS = frozenset(("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__dlpack__"))
"""They move a value out of torch, where it can no longer be followed."""

ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("clone", "contiguous", "to", "float", "half", "bfloat16", "double", "type", "type_as"), "same"),
    **dict.fromkeys(("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "squeeze"), "reshape"),
    **dict.fromkeys(("unsqueeze", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"), "reshape"),
    **dict.fromkeys(("t", "T", "mT", "expand", "expand_as", "broadcast_to", "repeat", "tile"), "reshape"),
    **dict.fromkeys(("repeat_interleave", "chunk", "split", "unbind", "tensor_split", "__getitem__"), "reshape"),
    **dict.fromkeys(("narrow", "select", "index_select", "gather", "take_along_dim", "roll", "flip"), "reshape"),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "ravel"), "reshape"),
    **dict.fromkeys(("mean", "sum", "avg_pool1d", "avg_pool3d", "adaptive_avg_pool1d"), "mean"),
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d"), "avg_pool2d"),
    **dict.fromkeys(("interpolate", "upsample", "grid_sample"), "interpolate"),
    **dict.fromkeys(("neg", "negative", "positive"), "scale"),
    **dict.fromkeys(("conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "convolution"),
    **dict.fromkeys(("mv", "addmm", "baddbmm"), "matmul"),
    **dict.fromkeys(("einsum", "tensordot", "inner", "outer", "cumsum", "diff", "tril", "triu"), "matmul"),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices", "boolean_dispatch.<locals>.fn"), "max_pool2d"),
    **dict.fromkeys(("absolute", "__abs__"), "abs"),
    **dict.fromkeys(("__rdiv__", "__rtruediv__"), "reciprocal"),
    **dict.fromkeys(("__pow__", "__rpow__", "float_power"), "pow"),
    "masked_fill": "fill",
    "log_sigmoid": "logsigmoid",
}
"""Names of torch functions with their kind; for others the kind is the name."""

ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "conv2d": {"input": ..., "weight": ..., "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    "linear": {"input": ..., "weight": ..., "bias": None},
    "batch_norm": {
        "input": ...,
        "running_mean": None,
        "running_var": None,
        "weight": None,
        "bias": None,
        "training": False,
        "momentum": 0.1,
        "eps": 1e-5,
    },
    "local_response_norm": {"input": ..., "size": ..., "alpha": 1e-4, "beta": 0.75, "k": 1.0},
    "layer_norm": {"input": ..., "normalized_shape": ..., "weight": None, "bias": None, "eps": 1e-5},
    "max_pool2d": {
        "input": ...,
        "kernel_size": ...,
        "stride": None,
        "padding": 0,
        "dilation": 1,
        "ceil_mode": False,
        "return_indices": False,
    },
}
"""Argument names and defaults of kinds whose rules read more than the values of the image."""

IN_PLACE = frozenset(("__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__", "__setitem__"))
