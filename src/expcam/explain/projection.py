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
    ranked, count, inside = _best(logits, allowed, area)
    reach = round(softness * count)
    width = ranked[max(0, count - 1 - reach)] - ranked[min(count + reach, len(ranked) - 1)]
    # Where neighbours are equal, the edge would be infinitely steep.
    steepest = STEEPEST * ranked.std(correction=0)
    width = torch.maximum(width / STEEPNESS, steepest)
    return _probabilities(logits, _edge(ranked, count), inside, width) * allowed


def rank(logits: Tensor, allowed: Tensor, area: float) -> Tensor:
    """The same with an edge as wide as the logits spread: the probabilities rank all pixels."""
    ranked, count, inside = _best(logits, allowed, area)
    width = ranked.std(correction=0)
    return _probabilities(logits, _edge(ranked, count), inside, width) * allowed


def straight_through(probability: Tensor) -> Tensor:
    """1 where a probability exceeds 0.5 and 0 elsewhere, with the gradient of the probability."""
    fixed = probability.detach()
    return (fixed > 0.5).float() + (probability - fixed)


def _best(logits: Tensor, allowed: Tensor, area: float) -> tuple[Tensor, int, Tensor]:
    """The allowed logits in falling order, how many of them to take, and where these are."""
    ranked, order = logits.detach()[allowed].sort(descending=True, stable=True)
    count = min(max(1, round(area * logits.numel())), len(ranked))
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    kept[order[:count]] = True
    return ranked, count, torch.zeros_like(allowed).masked_scatter(allowed, kept)


def _edge(ranked: Tensor, count: int) -> Tensor:
    """Half way between the last logit inside and the first outside."""
    return (ranked[count - 1] + ranked[min(count, len(ranked) - 1)]) / 2


def _probabilities(logits: Tensor, edge: Tensor, inside: Tensor, width: Tensor) -> Tensor:
    probability = torch.sigmoid((logits - edge) / (width + 1e-12))
    # Pixels of equal logits may lie on both sides of the edge.
    return torch.where(inside, probability.clamp(min=0.5 + 1e-6), probability.clamp(max=0.5))
