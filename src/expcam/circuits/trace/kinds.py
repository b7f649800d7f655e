"""The kinds of operations, by what each does to channels."""

from collections.abc import Collection
from enum import Enum, auto
from typing import Any

from torch import fx

from expcam.circuits.trace.graph import VIEWS, operation

ELEMENTWISE = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "softplus", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "hardshrink"),
    *("softshrink", "clamp", "clamp_min", "clamp_max", "abs", "square", "pow", "sqrt", "exp"),
    *("log", "log1p", "erf", "sin", "cos", "log_sigmoid"),
}
SAME = {
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous"),
    *("clone", "alias", "detach", "to", "_to_copy", "type_as", "lift_fresh_copy"),
}
REINDEXING = VIEWS - SAME | {
    *("roll", "flip", "pad", "constant_pad_nd", "index", "index_select", "repeat", "getitem"),
    *("repeat_interleave", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
    *("upsample_nearest2d", "im2col"),
}
PADDING = {"pad", "constant_pad_nd"}
SELECTING = {
    *("slice", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
    *("getitem", "index", "index_select", "roll", "flip", "channel_shuffle"),
}
SPREADING = {"expand", "expand_as", "repeat", "unsqueeze", "view", "reshape", "upsample_nearest2d"}
POOLING = {
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
}
REDUCING = {"mean", "sum", "amax", "max"}
MAX_POOLING = {"max_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices"}
NORMALISING = {"layer_norm", "rms_norm", "group_norm", "instance_norm"}
JOINING = {"cat", "concat", "concatenate"}
PRODUCTS = {"matmul", "bmm", "einsum"}
SCORING = {"add", "sub", "masked_fill", "clamp", "where"}
"""What may be done to the scores of attention before their softmax."""


class Kind(Enum):
    """What an operation does to the channels that it is given."""

    IMAGE = auto()
    LAYER = auto()
    """Mixes channels; its own are nodes of the circuit."""
    ATTENTION = auto()
    """Mixes positions by weights that depend on the image; its heads are nodes."""
    PROJECTION = auto()
    """Mixes channels without nodes: into queries, keys and values, or back to the stream."""
    LOGITS = auto()
    """Gives the classes where no layer's own channels are; then they are a layer by themselves."""
    DEPTHWISE = auto()
    """A convolution with one kernel per channel, which mixes none."""
    BATCH_NORM = auto()
    NORM = auto()
    """A layer, group or instance norm, whose scale depends on the image."""
    GATE = auto()
    """An elementwise nonlinearity: it lets a share of each number pass."""
    SAME = auto()
    """Changes nothing."""
    REINDEX = auto()
    """Moves numbers to other places: a change of shape, a shuffle, a part of a tensor."""
    AVERAGE = auto()
    MAX_POOL = auto()
    MAX = auto()
    """The highest number along some dimensions."""
    FOLD = auto()
    """Lays patches over one another and sums them up."""
    SPATIAL = auto()
    """Mixes positions by fixed weights that are the same for every channel."""
    JOIN = auto()
    """A concatenation."""
    SUM = auto()
    SCALE = auto()
    """Multiplies by something that is the same for every image."""
    PRODUCT = auto()
    """Multiplies by something that the image makes too."""


SIMPLE = {
    **dict.fromkeys(ELEMENTWISE, Kind.GATE),
    **dict.fromkeys(SAME, Kind.SAME),
    **dict.fromkeys(REINDEXING, Kind.REINDEX),
    **dict.fromkeys((*POOLING, "mean", "sum"), Kind.AVERAGE),
    **dict.fromkeys(("amax", "max"), Kind.MAX),
    **dict.fromkeys(MAX_POOLING, Kind.MAX_POOL),
    **dict.fromkeys(NORMALISING, Kind.NORM),
    **dict.fromkeys(JOINING, Kind.JOIN),
    **dict.fromkeys(("mul", "div", "neg"), Kind.SCALE),
    **dict.fromkeys(("add", "sub"), Kind.SUM),
    "batch_norm": Kind.BATCH_NORM,
    "col2im": Kind.FOLD,
}
"""What an operation does, where its name tells."""


def is_unusual(n: fx.Node, images: Collection[fx.Node]) -> bool:
    """Whether a known operation is used in a way that is not understood.

    Args:
        n: The operation.
        images: All tensors that depend on the image.
    """
    unusual, args = False, n.args
    match operation(n):
        case "conv2d" | "linear":  # the image makes the weights, or the groups
            unusual = args[1] in images or isinstance(option(n, 6, "groups", 1), fx.Node)
        case "batch_norm":  # without running statistics its scale is the image's
            unusual = args[3] is None or bool(args[5])
        case "instance_norm":  # with running statistics it is a batch norm
            unusual = not args[5]
        case "max":  # of two tensors, or of everything
            unusual = not isinstance(option(n, 1, "dim", None), int)
        case "getitem":  # the places where a maximum was found
            (source,) = n.all_input_nodes
            unusual = bool(args[1]) and operation(source) in {"max", *MAX_POOLING}
        case "div" | "pow":
            unusual = args[0] not in images
    return unusual


def attends(n: fx.Node, images: Collection[fx.Node]) -> bool:
    """Whether an operation multiplies matrices of which the image makes more than one."""
    if n.op != "call_function":
        return False
    name = operation(n)
    return name == "scaled_dot_product_attention" or (
        name in PRODUCTS and sum(a in images for a in n.all_input_nodes) > 1
    )


def groups_of(n: fx.Node) -> int:
    """Into how many groups a layer's convolution is divided; 1 for other layers."""
    return int(option(n, 6, "groups", 1)) if operation(n) == "conv2d" else 1


def is_depthwise(n: fx.Node) -> bool:
    """Whether a convolution has one kernel per channel, and mixes none."""
    arguments: Any = n.args
    weight = arguments[1].meta["val"]
    return bool(groups_of(n) == len(weight) > 1 and weight.shape[1] == 1)


def option(n: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument that may be given by its place, by its name or not at all."""
    return n.kwargs.get(name, n.args[place] if len(n.args) > place else default)


def reduced_dims(n: fx.Node, ndim: int) -> list[int]:
    """The dimensions that a mean, a sum or a maximum is over."""
    given: Any = option(n, 1, "dim", None)
    if given is None or given == []:
        return list(range(ndim))
    return [d % ndim for d in (given if isinstance(given, list | tuple) else [given])]
