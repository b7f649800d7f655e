"""From logits to a mask of a given area."""

import torch
from torch import Tensor

STEEPNESS = 6.0
"""What the sigmoid maps to 95 % less what it maps to 5 %."""
STEEPEST = 1e-3
"""Least width of an edge, in standard deviations of the logits."""


def project(logits: Tensor, allowed: Tensor, area: float, softness: float) -> Tensor:
    """Probabilities that exceed 0.5 on just the share ``area`` of pixels with the highest logits.

    The edge is as soft as its neighbourhood of pixels says, not as the logits' values do: where
    they are flat, any fixed width would leave half an image between on and off.

    Args:
        logits: ``(H, W)``.
        allowed: Boolean ``(H, W)``; elsewhere the probability is 0.
        area: Share of all pixels, in ``(0, 1]``.
        softness: Between the pixel so many ranks inside the edge and the one as many outside,
            as a share of the mask, the probability falls from 95 to 5 %, if the logits fall evenly.
    """
    values, count = _choice(logits, allowed, area)
    reach = round(softness * count)
    width = _ranked(values, count - reach) - _ranked(values, count + 1 + reach)
    # Where neighbours are equal, the edge would be infinitely steep.
    steepest = STEEPEST * values.std(correction=0)
    width = torch.maximum(width / STEEPNESS, steepest)
    return _probabilities(logits, allowed, values, count, width)


def rank(logits: Tensor, allowed: Tensor, area: float) -> Tensor:
    """The same with an edge as wide as the logits spread: the probabilities rank all pixels."""
    values, count = _choice(logits, allowed, area)
    return _probabilities(logits, allowed, values, count, values.std(correction=0))


def straight_through(probability: Tensor) -> Tensor:
    """1 where a probability exceeds 0.5 and 0 elsewhere, with the gradient of the probability."""
    fixed = probability.detach()
    return (fixed > 0.5).float() + (probability - fixed)


def _choice(logits: Tensor, allowed: Tensor, area: float) -> tuple[Tensor, int]:
    """The logits to choose from, ``(n,)``, and how many to choose."""
    values = logits.detach()[allowed]
    return values, min(max(1, round(area * logits.numel())), len(values))


def _ranked(values: Tensor, place: int) -> Tensor:
    """The value at a place in falling order, from 1; the first or last beyond the ends."""
    # This takes a fraction of the time of sorting.
    return values.kthvalue(min(max(1, len(values) + 1 - place), len(values))).values


def _probabilities(
    logits: Tensor, allowed: Tensor, values: Tensor, count: int, width: Tensor
) -> Tensor:
    """Sigmoids ``(H, W)`` that exceed 0.5 on just the ``count`` highest of the allowed logits."""
    last = _ranked(values, count)
    edge = (last + _ranked(values, count + 1)) / 2
    inside, level = values > last, values == last
    # Of pixels that are level with the last one the first are taken.
    inside |= level & (level.cumsum(0) <= count - inside.sum())
    kept = torch.zeros_like(allowed).masked_scatter(allowed, inside)
    probability = torch.sigmoid((logits - edge) / (width + 1e-12))
    probability = torch.where(kept, probability.clamp(min=0.5 + 1e-6), probability.clamp(max=0.5))
    return probability * allowed
