"""From logits to a mask of a given area."""

import torch
from torch import Tensor


def project(logits: Tensor, allowed: Tensor, area: float, width: float) -> Tensor:
    """Probabilities that exceed 0.5 on just the share ``area`` of pixels with the highest logits.

    Args:
        logits: ``(H, W)``.
        allowed: Boolean ``(H, W)``; elsewhere the probability is 0.
        area: Share of all pixels, in ``(0, 1]``.
        width: Softness of the edge, in standard deviations of the logits.
    """
    ranked, order = logits.detach()[allowed].sort(descending=True, stable=True)
    count = min(max(1, round(area * logits.numel())), len(ranked))
    edge = (ranked[count - 1] + ranked[min(count, len(ranked) - 1)]) / 2
    spread = ranked.std(correction=0) + 1e-12
    probability = torch.sigmoid((logits - edge) / (width * spread))
    # Pixels of equal logits may lie on both sides of the edge.
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    kept[order[:count]] = True
    inside = torch.zeros_like(allowed).masked_scatter(allowed, kept)
    split = torch.where(inside, probability.clamp(min=0.5 + 1e-6), probability.clamp(max=0.5))
    return split * allowed
