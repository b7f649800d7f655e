"""Measures of a mask, each taken with the classifier on the hard mask."""

from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from expcam.classifier.model import BATCH, Classifier
from expcam.explain.backgrounds import evaluation_backgrounds, evaluation_draws

LEVELS = (
    *(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2),
    *(0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
"""Areas at which an attribution map is cut into a mask."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a hard mask does, checked after binarisation.

    Attributes:
        area: Share of pixels kept.
        kept: Whether the explanation on the zero background has the label.
        robustness: Share of the eight held-out evaluation backgrounds on which it has.
        necessary: Whether the image without the mask's pixels loses the label.
        confidence: Probability of the label on the zero background.
        draws: Independent backgrounds tried beyond those eight.
        draws_kept: On how many of them the label is kept.
        passes: Forward passes that the verification took.
    """

    area: float
    kept: bool
    robustness: float
    necessary: bool
    confidence: float
    draws: int
    draws_kept: int
    passes: int


@torch.inference_mode()
def predictions(classifier: Classifier, x: Tensor, masks: Tensor, backgrounds: Tensor) -> Tensor:
    """Logits of every mask on every background.

    Args:
        classifier: A frozen classifier.
        x: Normalised image ``(3, H, W)``.
        masks: Boolean ``(n, H, W)``.
        backgrounds: ``(k, 3, H, W)``.

    Returns:
        Logits ``(n, k, classes)``.
    """
    count, kinds = len(masks), len(backgrounds)
    rows = []
    for chunk in torch.arange(count * kinds, device=x.device).split(BATCH):
        keep = masks[chunk // kinds][:, None]
        rows.append(classifier.logits(torch.where(keep, x, backgrounds[chunk % kinds])))
    return torch.cat(rows).view(count, kinds, -1)


def keeps(
    classifier: Classifier, x: Tensor, masks: Tensor, backgrounds: Tensor, label: int
) -> Tensor:
    """Whether each mask keeps the label on each background: boolean ``(n, k)``."""
    return predictions(classifier, x, masks, backgrounds).argmax(-1) == label


def verify(
    classifier: Classifier, x: Tensor, mask: Tensor, label: int, seed: int = 0
) -> Verification:
    """Check a hard mask ``(H, W)`` against the contract of an explanation."""
    eight, more = evaluation_backgrounds(x, seed), evaluation_draws(x, seed)
    logits = predictions(classifier, x, mask[None], torch.cat([eight, more]))[0]
    without = predictions(classifier, x, ~mask[None], eight[:1])[0]
    held = logits.argmax(-1) == label
    return Verification(
        area=float(mask.float().mean()),
        kept=bool(held[0]),
        robustness=float(held[: len(eight)].float().mean()),
        necessary=int(without[0].argmax()) != label,
        confidence=float(logits[0].softmax(-1)[label]),
        draws=len(more),
        draws_kept=int(held[len(eight) :].sum()),
        passes=len(logits) + 1,
    )


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> float:
    """One-sided lower confidence bound of a probability (Clopper and Pearson, 1934).

    Args:
        successes: How many of the independent trials succeeded.
        trials: How many there were.
        level: Confidence.
    """
    if successes == 0:
        return 0.0
    return float(betaincinv(successes, trials - successes + 1, 1 - level))


@dataclass(frozen=True)
class Level:
    """The smallest level set of an attribution that keeps the label.

    Attributes:
        area: Share of pixels; 1.0 when only the whole image keeps the label.
        mask: Boolean ``(H, W)``.
        holds: Whether the label holds; false where not even the largest level keeps it.
    """

    area: float
    mask: Tensor
    holds: bool


def level_set(attribution: Tensor, area: float) -> Tensor:
    """The mask ``(H, W)`` of the share ``area`` of pixels with the highest attribution."""
    count = max(1, min(attribution.numel(), round(area * attribution.numel())))
    mask = torch.zeros(attribution.numel(), dtype=torch.bool, device=attribution.device)
    mask[attribution.flatten().topk(count).indices] = True
    return mask.view(attribution.shape)


def smallest_level(
    classifier: Classifier,
    x: Tensor,
    attribution: Tensor,
    backgrounds: Tensor,
    label: int,
) -> Level:
    """Cut an attribution at growing `LEVELS` until the label holds.

    Args:
        classifier: A frozen classifier.
        x: Normalised image ``(3, H, W)``.
        attribution: ``(H, W)``; higher means more important.
        backgrounds: The label must hold on all of them, ``(k, 3, H, W)``.
        label: Class index.
    """
    mask = torch.ones_like(attribution, dtype=torch.bool)
    for area in LEVELS:
        mask = level_set(attribution, area)
        # Most levels fail on the first background already.
        if all(
            bool(keeps(classifier, x, mask[None], some, label).all())
            for some in (backgrounds[:1], backgrounds[1:])
            if len(some)
        ):
            return Level(area, mask, holds=True)
    return Level(1.0, mask, holds=False)
