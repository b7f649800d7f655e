"""The connected pieces of a mask; pixels that touch at a corner belong together."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def pieces(mask: Tensor) -> Tensor:
    """Each connected piece of a mask, ``(n, H, W)``.

    Args:
        mask: Boolean ``(H, W)``.
    """
    labels, count = _labelled(mask)
    numbers = torch.arange(1, count + 1, device=mask.device).view(-1, 1, 1)
    found: Tensor = labels == numbers
    return found


def specks(mask: Tensor, share: float) -> Tensor:
    """Where a mask's small pieces are, ``(H, W)``; its largest piece is none of them.

    Args:
        mask: Boolean ``(H, W)``.
        share: A piece with fewer of the mask's pixels than this is small.
    """
    labels, count = _labelled(mask)
    sizes = labels.flatten().bincount(minlength=count + 1)
    sizes[0] = 0  # what is not in the mask
    small = (sizes < share * sizes.sum()) & (sizes < sizes.max())
    return small[labels] & mask


def _labelled(mask: Tensor) -> tuple[Tensor, int]:
    """The number ``(H, W)`` of the piece of each pixel, 0 where there is none, and the last."""
    labels, count = ndimage.label(mask.cpu().numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels).long().to(mask.device), int(count)
