"""How much of what a classifier computes of an image it computes of the explanation as well."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.classifier.model import Classifier
from expcam.classifier.network import is_scripted, unwrapped
from expcam.classifier.taps import stage_outputs, with_outputs
from expcam.errors import OptionError
from expcam.explain.losses import divergence

SCALE = 10.0
"""Logits of margin that a search takes a cosine similarity of 1 for."""
WEIGHT = 30.0
"""Weight of the distance where a match is asked for. With less, many searches do not get there:
what makes a mask keep the label does little for its activations."""
MOVED, GRADCAM = "moved", "gradcam"
"""What a mask's match is compared with: itself at random places, and Grad-CAM at its area."""
ELSEWHERE = 4
"""Places to which a mask is moved, for the control."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """How alike the activations of a masked image, on the mean colour, and of the whole one are.

    Attributes:
        spatial: Cosine similarity of each tap's output as it is, by the tap's name, from shallow
            to deep; empty where the classifier's layers cannot be looked at.
        pooled: The same of its mean over space, or over tokens.
        divergence: Kullback-Leibler divergence of the masked image's probabilities from the
            whole one's, ``KL(f(x) ‖ f(e))``, in nats.
    """

    spatial: Mapping[str, float]
    pooled: Mapping[str, float]
    divergence: float

    @property
    def last(self) -> float | None:
        """The pooled similarity at the last tap; None where there is none."""
        return list(self.pooled.values())[-1] if self.pooled else None


UNKNOWN = Match(spatial={}, pooled={}, divergence=math.nan)
"""Of a mask that was not measured."""


@dataclass(frozen=True, eq=False)
class Whole:
    """What a classifier computes of a whole image.

    Attributes:
        logits: Of all that there is to choose from, ``(classes,)``.
        activations: Output ``(1, …)`` of each tap, from shallow to deep (see `stage_outputs`).
    """

    logits: Tensor
    activations: Mapping[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, classifier: Classifier, x: Tensor) -> "Whole":
        """Of a normalised image ``(channels, H, W)``, in three forward passes.

        Taps are those stages whose output has a row for each image; of TorchScript there are none.
        """
        module = unwrapped(classifier.module)
        if is_scripted(module):
            return cls(classifier.logits(x[None])[0], {})
        logits, stages = stage_outputs(classifier, x)
        two = x.expand(2, *x.shape)
        _, rows = with_outputs(module, list(stages), lambda: classifier.logits(two), 2)
        return cls(logits, {name: stages[name] for name in rows if len(stages[name]) == 1})

    @torch.no_grad()
    def matches(self, classifier: Classifier, x: Tensor, masks: Tensor) -> list[Match]:
        """How far each mask of ``(n, H, W)`` keeps it, in as many forward passes."""
        logits, outputs = with_outputs(
            unwrapped(classifier.module),
            list(self.activations),
            lambda: classifier.logits(masks[:, None] * x),
            len(masks),
        )
        spatial = {tap: cosine(outputs[tap], own) for tap, own in self.activations.items()}
        means = {
            tap: cosine(pooled(outputs[tap]), pooled(own)) for tap, own in self.activations.items()
        }
        return [
            Match(
                spatial={tap: float(each[i]) for tap, each in spatial.items()},
                pooled={tap: float(each[i]) for tap, each in means.items()},
                divergence=float(divergence(self.logits, row[None])),
            )
            for i, row in enumerate(logits)
        ]


@dataclass(frozen=True, eq=False)
class Matching:
    """Activations that a mask is to keep.

    Attributes:
        whole: Those of the whole image.
        wanted: The least pooled cosine similarity, by tap.
    """

    whole: Whole
    wanted: Mapping[str, float]

    @classmethod
    def of(cls, whole: Whole, asked: float | Mapping[str, float]) -> "Matching":
        """What is asked for: a number alone is the least similarity at the last tap.

        Raises:
            OptionError: No such tap, or there are none.
        """
        taps = list(whole.activations)
        if not taps:
            raise OptionError(
                "the activations of this classifier cannot be looked at, so no match can be "
                "asked for"
            )
        each = dict(asked) if isinstance(asked, Mapping) else {taps[-1]: asked}
        for tap in each:
            if tap not in taps:
                raise OptionError(f"no tap `{tap}` to match at; there are: {', '.join(taps)}")
        return cls(whole, each)

    def margin(self, activations: Mapping[str, Tensor]) -> Tensor:
        """What the worst tap has to spare, in numbers of the size of logits.

        Args:
            activations: Output ``(1, …)`` of each tap on the masked image.
        """
        spare = [self._similarity(tap, activations) - least for tap, least in self.wanted.items()]
        return SCALE * torch.stack(spare).min()

    def distance(self, activations: Mapping[str, Tensor]) -> Tensor:
        """1 - pooled cosine similarity, summed over the taps."""
        similar = [self._similarity(tap, activations) for tap in self.wanted]
        return (1 - torch.stack(similar)).sum()

    def _similarity(self, tap: str, activations: Mapping[str, Tensor]) -> Tensor:
        return cosine(pooled(activations[tap]), pooled(self.whole.activations[tap]))[0]


def moved(mask: Tensor, rng: torch.Generator) -> Tensor:
    """A mask ``(H, W)`` moved to `ELSEWHERE` random places, around the edges: a control."""
    height, width = mask.shape
    shifts = zip(
        torch.randint(height, (ELSEWHERE,), generator=rng).tolist(),
        torch.randint(width, (ELSEWHERE,), generator=rng).tolist(),
        strict=True,
    )
    return torch.stack([mask.roll(shift, (0, 1)) for shift in shifts])


def mean_of(matches: Sequence[Match]) -> Match:
    """The mean of several masks' figures."""

    def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {tap: sum(row[tap] for row in rows) / len(rows) for tap in rows[0]}

    return Match(
        spatial=mean([each.spatial for each in matches]),
        pooled=mean([each.pooled for each in matches]),
        divergence=sum(each.divergence for each in matches) / len(matches),
    )


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity of outputs of one tap ``(n, …)``, or ``(1, …)`` for all: ``(n,)``."""
    return F.cosine_similarity(one.flatten(1).float(), other.flatten(1).float(), dim=1)


def pooled(output: Tensor) -> Tensor:
    """The mean over space, or over tokens, of a tap's output ``(n, …)``: ``(n, channels)``."""
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output
