"""Pixels as the parts that a search chooses from, and backgrounds as their perturbations."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from expcam.classifier.model import Classifier
from expcam.explain.backgrounds import BACKGROUNDS, RANDOM
from expcam.explain.losses import holding, losing, total_variation
from expcam.explain.match import WEIGHT, Matching
from expcam.explain.objectives import MATCH, REMOVAL
from expcam.search.model import Seen
from expcam.search.parts import Perturbation

SMOOTHNESS = 6.0
"""Weight of the total variation beside the cross-entropy: fewer, larger components."""
GRIDS = (14, 28)
"""Blocks on the shorter side when a mask is pruned, after whole components: the coarse ones go
first, because they go at once."""


class Pixels:
    """The pixels of one image, for one class.

    Args:
        classifier: Frozen by the caller; it may choose between two things only.
        x: Normalised image ``(channels, H, W)``.
        label: Index of the class among the classifier's logits.
        allowed: Boolean ``(H, W)``; pixels that the mask may keep.
        matching: The activations that are to be kept; None where nothing asks for them.
        likeness: See `Objective`.
    """

    def __init__(
        self,
        classifier: Classifier,
        x: Tensor,
        label: int,
        allowed: Tensor,
        matching: Matching | None = None,
        likeness: float = 0.0,
    ) -> None:
        self.allowed, self._matching, self._likeness = allowed, matching, likeness
        self._classifier, self._x, self._label = classifier, x, label
        side = min(x.shape[-2:])
        # Blocks as large as the image leave its components alone.
        self.cell_sizes: Sequence[int] = [
            max(x.shape[-2:]),
            *(max(1, side // n) for n in GRIDS),
        ]

    def perturbation(self, kind: str, rng: torch.Generator) -> Perturbation:
        """A background; or, for ``removal``, the mean colour in place of the mask's pixels."""
        removal = kind == REMOVAL
        grey = kind in (REMOVAL, MATCH)
        background = BACKGROUNDS["zero" if grey else kind](self._x, rng)
        return Perturbation(kind, background, random=kind in RANDOM, removal=removal)

    def opposite(self, drawn: Perturbation) -> Perturbation:
        """The same noise with its sign changed."""
        return Perturbation(drawn.kind, -drawn.value, drawn.random, drawn.removal)

    def perturbed(self, keep: Tensor, by: Perturbation) -> Tensor:
        """The composite ``(channels, H, W)`` of a mask ``(H, W)``."""
        if keep.dtype == torch.bool:
            return torch.where(keep ^ by.removal, self._x, by.value)
        keep = 1 - keep if by.removal else keep
        composite: Tensor = keep * self._x + (1 - keep) * by.value
        return composite

    def loss(self, keep: Tensor, output: Seen, by: Perturbation) -> Tensor:
        """Do what is asked for, with a mask that varies little from pixel to pixel.

        That is to keep the label, to lose it, or to keep the activations.
        """
        smooth = SMOOTHNESS * total_variation(keep)
        if by.kind == MATCH:
            assert self._matching is not None
            return WEIGHT * self._matching.distance(output.activations) + smooth
        chosen = self._classifier.chosen(output.logits[None])
        decision = losing if by.removal else holding
        loss = decision(chosen, self._label) + smooth
        if by.kind == "zero" and self._matching is not None:
            loss = loss + self._likeness * self._matching.distance(output.activations)
        return loss

    def margins(self, outputs: Sequence[Seen], by: Sequence[Perturbation]) -> Tensor:
        """Logit of the class less the highest other one; of `MATCH`, see `Matching.margin`."""
        logits = torch.stack([seen.logits for seen in outputs])
        others = self._classifier.chosen(logits).clone()
        own = others[:, self._label].clone()
        others[:, self._label] = -torch.inf
        margins = own - others.amax(-1)
        for i, (seen, each) in enumerate(zip(outputs, by, strict=True)):
            if each.kind == MATCH:
                assert self._matching is not None
                margins[i] = self._matching.margin(seen.activations)
        return margins

    def cells(self, keep: Tensor, size: int) -> Tensor:
        """A mask's connected components, and its blocks of a side of ``size`` pixels."""
        cells = torch.cat([components(keep), _blocks(keep, size)]).flatten(1)
        unique: Tensor = torch.unique(cells, dim=0).view(-1, *keep.shape)
        return unique


def level_set(attribution: Tensor, area: float) -> Tensor:
    """The mask ``(H, W)`` of the share ``area`` of pixels with the highest attribution."""
    count = max(1, min(attribution.numel(), round(area * attribution.numel())))
    mask = torch.zeros(attribution.numel(), dtype=torch.bool, device=attribution.device)
    mask[attribution.flatten().topk(count).indices] = True
    return mask.view(attribution.shape)


def components(mask: Tensor) -> Tensor:
    """Each connected component of a mask ``(H, W)``, boolean ``(n, H, W)``.

    Pixels that touch at a corner belong together.
    """
    labels, count = ndimage.label(mask.cpu().numpy(), structure=np.ones((3, 3)))
    numbers = torch.arange(1, count + 1).view(-1, 1, 1)
    return (torch.from_numpy(labels) == numbers).to(mask.device)


def _blocks(mask: Tensor, side: int) -> Tensor:
    """What a mask has in each block of a grid that it touches, ``(n, H, W)``."""
    rows = torch.arange(mask.shape[0], device=mask.device) // side
    columns = torch.arange(mask.shape[1], device=mask.device) // side
    number = rows[:, None] * (int(columns[-1]) + 1) + columns
    return number.eq(number[mask].unique().view(-1, 1, 1)) & mask
