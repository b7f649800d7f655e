"""How strong an edge or a node is: the scores to choose from."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.circuits.program import operation
from expcam.circuits.reading import Contribution, weight_and_bias
from expcam.circuits.recording import Recording
from expcam.circuits.wiring import Kind
from expcam.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Measures of one layer's channels on one image, each ``(channels,)``.

    Attributes:
        activation: Mean over positions of the absolute activation.
        signed: Mean over positions of activation × gradient of the class's logit.
    """

    activation: Tensor
    signed: Tensor

    @property
    def relevance(self) -> Tensor:
        """``|mean over positions of activation × gradient|``."""
        return self.signed.abs()


NodeScore = Callable[[Channels], Tensor]

NODE_SCORES: dict[str, NodeScore] = {
    "relevance": lambda channels: channels.relevance,
    "blend": lambda channels: channels.activation * channels.relevance**0.25,
    "gradient×activation": lambda channels: channels.signed.clamp(min=0),
    "activation": lambda channels: channels.activation,
}
"""What ranks the channels of a layer. ``relevance``, |gradient × activation|, is the default: it
is the method's own definition. The channels that it keeps over-excite the class, those that
``activation`` keeps under-excite it; ``blend``, activation times the fourth root of relevance, lies
between, and by ablation is the most faithful (see ``benchmarks/RESULTS.md``)."""

EdgeScore = Callable[[Contribution, Tensor], Tensor]
"""From a contribution and its sources' mean absolute activation ``(sources,)``."""


def _attribution(contribution: Contribution, _: Tensor) -> Tensor:
    assert contribution.attribution is not None
    return contribution.attribution.abs()


def _bound(contribution: Contribution, activation: Tensor) -> Tensor:
    assert contribution.pull is not None
    return contribution.weight * activation * contribution.pull[:, None]


GRADIENT, BOUND = "gradient×activation", "weight×activation×gradient"
NEED_GRADIENT = (GRADIENT, BOUND)

EDGE_SCORES: dict[str, EdgeScore] = {
    "weight×activation": lambda c, activation: c.weight * activation,
    "signed": lambda c, _: c.signed.abs(),
    GRADIENT: _attribution,
    BOUND: _bound,
    "activation": lambda c, activation: activation.expand_as(c.weight),
    "weight": lambda c, _: c.weight,
}
"""What an edge's score is: ``weight×activation`` is EXP-CAM's ‖W‖₁ · A (arXiv 2509.25686);
``signed`` the absolute value of what the source adds to the target on this image;
``gradient×activation`` the absolute value of what it adds, times the gradient of the logit by the
target's preactivation, as in attribution patching (arXiv 2310.10348);
``weight×activation×gradient`` is ‖W‖₁ · A times the summed absolute gradient there, which bounds
it; the others are controls. The first is the default because it is the published one. Where parts
are ablated by a mean it does worse than random edges, and the bound best of all (see
``benchmarks/RESULTS.md``)."""


def score_name(given: str, known: Collection[str], what: str) -> str:
    """The name of a score; ``*`` may be written for ``×``.

    Raises:
        OptionError: There is no such score; the message lists them.
    """
    name = given.replace("*", "×")
    if name not in known:
        raise OptionError(f"unknown {what} score `{given}`; there are: {', '.join(known)}")
    return name


def weight_norms(recording: Recording, name: str) -> Tensor:
    """L1 norm of the weights that make each channel of a layer, its scale folded in.

    Zero where no weights do: attention's heads.
    """
    layer, site = recording.layers[name], recording.wiring.sites[name]
    if recording.wiring.steps[site.node].kind is Kind.ATTENTION:
        return torch.zeros_like(layer.scale)
    kept = recording.kept[site.node]
    convolution = operation(site.node) == "conv2d"
    weight = kept.args[1] if convolution else weight_and_bias(site.node, kept)[0]
    return weight.abs().flatten(1).sum(1) * layer.scale.abs()
