"""A choice without anything that can be spared."""

import math
from dataclasses import dataclass

from torch import Tensor

from expcam.search.checks import Check

MOST_CELLS = 40
"""A finer size is not begun with more cells than this: each costs a pass in every round."""


@dataclass(frozen=True)
class Pruned:
    """A choice that is minimal at a cell size.

    Attributes:
        keep: Boolean. No cell of it can be dropped without losing what the check asks for.
        size: The size of its cells; 0 where it is not known to be minimal at any.
    """

    keep: Tensor
    size: int


def prune(keep: Tensor, check: Check, needed: Tensor, most_runs: float = math.inf) -> Pruned:
    """Drop cells, the coarse sizes first, until each that is left is needed.

    Args:
        keep: Boolean; it passes the check.
        check: What must not be lost.
        needed: The margin that the check asks for on each perturbation.
        most_runs: When the check has run so many inputs nothing more is tried; what the last
            complete size left is the result.
    """
    found = Pruned(keep, 0)
    for size in check.parts.cell_sizes:
        if found.size and len(check.parts.cells(found.keep, size)) > MOST_CELLS:
            break
        smaller, minimal = _without_spares(found.keep, size, check, needed, most_runs)
        if not minimal:
            return found if found.size else Pruned(smaller, 0)
        found = Pruned(smaller, size)
    return found


def _without_spares(
    keep: Tensor, size: int, check: Check, needed: Tensor, most_runs: float
) -> tuple[Tensor, bool]:
    """Drop cells of one size.

    In a round each cell is left out alone on the hardest perturbation, all in one batch. Those
    that seem to be spare go together, or half of them, or a quarter, if that passes the whole
    check. Rounds follow until nothing could be dropped in one, which is said beside the choice,
    or until the runs are used up.
    """
    while True:
        cells = check.parts.cells(keep, size)
        cells = cells[(cells != keep).flatten(1).any(1)]  # something must stay
        if not len(cells):
            return keep, True
        if check.runs + len(cells) > most_runs:
            return keep, False
        margins = check.worst(keep & ~cells, needed)
        order = margins.argsort(descending=True, stable=True)
        spare = cells[order[: int((margins > 0).sum())].to(cells.device)]
        dropped, count = False, len(spare)
        while len(spare):
            if check.runs > most_runs:
                return keep, False
            rest = keep & ~spare[:count].any(0)
            if rest.any() and check.holds(rest, needed):
                keep, spare, dropped = rest, spare[count:], True
                count = min(count, len(spare))
            elif count > 1:
                count //= 2
            else:
                spare = spare[1:]
        if not dropped:
            return keep, True
