"""Hard masks without anything that can be spared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from expcam.explain.checks import Check
from expcam.explain.pieces import pieces
from expcam.explain.problem import FORWARD

GRIDS = (7, 14, 28)
"""Blocks on the shorter side of the image: coarse ones go first, because they go at once."""
MOST_CELLS = 40
"""A grid on which the mask touches more blocks is not tried."""


@dataclass(frozen=True)
class Pruned:
    """A mask that is minimal at a cell size.

    Attributes:
        mask: Boolean ``(H, W)``. None of its connected pieces, and none of the blocks it
            touches, can be dropped without losing what the check asks for, unless nothing would
            be left.
        cell: Side of the blocks in pixels; 0 where it is minimal at none.
    """

    mask: Tensor
    cell: int


def prune(mask: Tensor, check: Check, most_passes: float = torch.inf) -> Pruned:
    """Drop pieces and blocks from a mask until each that is left is needed.

    Args:
        mask: Boolean ``(H, W)`` that passes the check.
        check: The property that must not be lost.
        most_passes: Nothing further is tried when the image has taken more passes. Where a grid is
            broken off, the mask is what the one before left, which is minimal there; at the first
            grid it is what is left by then.
    """
    # Pieces go before blocks take what there is to spare: few large ones are easier to read.
    mask, _ = _without_spares(mask, pieces, check, most_passes)
    side = 0
    for grid in GRIDS:
        finer = max(1, min(mask.shape) // grid)
        if side and len(_blocks(mask, finer)) > MOST_CELLS:
            break
        parts = partial(_pieces_and_blocks, side=finer)
        smaller, minimal = _without_spares(mask, parts, check, most_passes)
        if minimal or not side:
            mask = smaller
        if not minimal:
            break
        side = finer
    return Pruned(mask, side)


def _without_spares(
    mask: Tensor, parts: Callable[[Tensor], Tensor], check: Check, most_passes: float
) -> tuple[Tensor, bool]:
    """Prune what a mask consists of, cells ``(n, H, W)``.

    In a round each cell is tried alone on the hardest background, all as one batch; of those that
    seem to be spare as many go at once as can, which is checked on all backgrounds. Rounds follow
    until in one of them none could be dropped, or too many passes were taken; which of the two is
    said beside the mask.
    """
    while True:
        cells, dropped = parts(mask), False
        cells = cells[(cells != mask).flatten(1).any(1)]
        if not len(cells):
            return mask, True
        if check.cost + len(cells) * FORWARD > most_passes:
            return mask, False
        margins = check.screen(mask & ~cells)
        order = margins.argsort(descending=True, stable=True)
        spare = cells[order[: int((margins > 0).sum())]]
        count = len(spare)
        while len(spare) and check.cost <= most_passes:
            rest = mask & ~spare[:count].any(0)
            if check.holds(rest):
                mask, spare, dropped = rest, spare[count:], True
                count = min(count, len(spare))
            elif count > 1:
                count //= 2
            else:
                spare = spare[1:]
        if not dropped and not len(spare):
            return mask, True


def _pieces_and_blocks(mask: Tensor, side: int) -> Tensor:
    """A mask's pieces and its blocks, each once, ``(n, H, W)``."""
    cells = torch.cat([pieces(mask), _blocks(mask, side)]).flatten(1)
    unique: Tensor = torch.unique(cells, dim=0).view(-1, *mask.shape)
    return unique


def _blocks(mask: Tensor, side: int) -> Tensor:
    """What the mask has in each block of a grid that it touches, ``(n, H, W)``."""
    rows = torch.arange(mask.shape[0], device=mask.device) // side
    columns = torch.arange(mask.shape[1], device=mask.device) // side
    number = rows[:, None] * (int(columns[-1]) + 1) + columns
    return number.eq(number[mask].unique().view(-1, 1, 1)) & mask
