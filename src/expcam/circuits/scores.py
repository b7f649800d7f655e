"""What ranks channels and edges: the scores to choose from, and the options of a readout.

It loads no torch, so that the command can list its options at once.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expcam.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from expcam.circuits.trace.recording import Channels

NodeScore = Callable[["Channels"], "Tensor"]
"""From the measures of a layer's channels a score for each, ``(channels,)``."""

NODE_SCORES: dict[str, NodeScore] = {
    "relevance": lambda channels: channels.relevance,
    "blend": lambda channels: channels.activation * channels.relevance**0.25,
    "gradient×activation": lambda channels: channels.attribution.clamp(min=0),
    "activation": lambda channels: channels.activation,
}
"""What ranks the channels of a layer. ``relevance``, |gradient × activation|, is the default: it
is the method's own definition. The channels that it keeps over-excite the class, those that
``activation`` keeps under-excite it; ``blend``, activation times the fourth root of relevance, lies
between, and by ablation is the most faithful (see ``benchmarks/RESULTS.md``)."""


@dataclass(frozen=True, kw_only=True)
class EdgeMeasures:
    """What is known of the edges into some channels of a layer, each ``(targets, sources)``.

    Attributes:
        weight: ``‖W‖₁``, the L1 norm of the weights, every fixed scale on the way folded in.
        activation: Mean absolute activation of the source.
        signed: What the source adds to the mean of the target's preactivation.
        attribution: What it adds, times the gradient of the class's logit there, summed over
            positions; None where the score needs no gradient.
        sensitivity: Summed absolute gradient of the logit by the target's preactivation; the
            same for all sources, so ``(targets, 1)``. None where the score needs no gradient.
    """

    weight: "Tensor"
    activation: "Tensor"
    signed: "Tensor"
    attribution: "Tensor | None" = None
    sensitivity: "Tensor | None" = None


@dataclass(frozen=True)
class EdgeScore:
    """A score of edges.

    Attributes:
        of: From the measures of edges a score for each, ``(targets, sources)``.
        needs_gradient: Whether it reads `EdgeMeasures.attribution` or its ``sensitivity``.
    """

    of: Callable[[EdgeMeasures], "Tensor"]
    needs_gradient: bool = False


def _attribution(edges: EdgeMeasures) -> "Tensor":
    assert edges.attribution is not None
    return edges.attribution.abs()


def _bound(edges: EdgeMeasures) -> "Tensor":
    assert edges.sensitivity is not None
    return edges.weight * edges.activation * edges.sensitivity


EDGE_SCORES: dict[str, EdgeScore] = {
    "weight×activation": EdgeScore(lambda edges: edges.weight * edges.activation),
    "signed": EdgeScore(lambda edges: edges.signed.abs()),
    "gradient×activation": EdgeScore(_attribution, needs_gradient=True),
    "weight×activation×gradient": EdgeScore(_bound, needs_gradient=True),
    "activation": EdgeScore(lambda edges: edges.activation),
    "weight": EdgeScore(lambda edges: edges.weight),
}
"""What an edge's score is, of a circuit that is read and of edges that are ablated.

``weight×activation`` is EXP-CAM's ‖W‖₁ · A (arXiv 2509.25686); ``signed`` the absolute value of
what the source adds to the target on this image; ``gradient×activation`` the absolute value of what
it adds, times the gradient of the logit by the target's preactivation, as in attribution patching
(arXiv 2310.10348); ``weight×activation×gradient`` is ‖W‖₁ · A times the summed absolute gradient
there, which bounds it; the others are controls. The first is the default because it is the
published one. Where parts are ablated by a mean it does worse than random edges, and the bound best
of all (see ``benchmarks/RESULTS.md``)."""

NODE_SCORE, EDGE_SCORE = "relevance", "weight×activation"
"""The defaults, by the method's own definitions."""
COVERAGE, TOP_K = 0.9, 16
"""Active are the fewest channels of a layer that hold this share of its summed score, and at most
so many."""
GRANULARITIES = ("layers", "blocks")
READOUT = "readout"
"""The ``method`` of a circuit that was read, not searched for."""
BY_GRADIENT = " (gradients as weights)"
"""Follows an edge score's name where the wiring is not known, and gradients stand for weights."""


def score_name(given: str, known: Collection[str], what: str) -> str:
    """The name of a score; ``*`` may be written for ``×``.

    Raises:
        OptionError: There is no such score; the message lists them.
    """
    name = given.replace("*", "×")
    if name not in known:
        raise OptionError(f"unknown {what} score `{given}`; there are: {', '.join(known)}")
    return name
