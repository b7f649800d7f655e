"""Attribution maps cut into masks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.classifier.model import Classifier
from expcam.explain.pixels import level_set
from expcam.explain.verification import keeps

LEVELS = (
    *(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2),
    *(0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
"""Areas at which an attribution map is cut into a mask."""


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
