"""What is returned of what a search came across.

Rankings are cut once more at areas below the best mask's. What is smallest is tried on further
draws of noise, and gives way to a larger one that was found before where it fails on them; what
is left is pruned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.explain.baselines import centred_disc
from expcam.explain.candidates import Candidate, Candidates
from expcam.explain.checks import Check
from expcam.explain.problem import Problem
from expcam.explain.pruning import prune
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.task import Solution

LAST_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 2.5, 3.5, 5.0, 8.0)
"""Factors on the area at which the search's rankings are cut once more, until one holds."""
GUESSED_AREAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
"""At which the first guess and a centred disc are cut, where they are smaller than the best."""
MOST_ENLARGED = 2.0
"""Of what was found, nothing larger than the smallest times this is returned for it."""
RELAXED_AREAS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""What is tried where no mask passed on all views."""


@dataclass(frozen=True)
class Rankings:
    """What a search leaves that ranks the pixels, each ``(H, W)``.

    Attributes:
        guess: What it started from.
        last: What it ended with.
        area: The share of pixels that it would have kept of that.
        larger: What it had on its way down, with the areas of the masks then.
        nearest: Of the masks that failed the one that failed by least.
    """

    guess: Tensor
    last: Tensor
    area: float
    larger: Sequence[tuple[Tensor, float]]
    nearest: Candidate | None


def ended(
    problem: Problem,
    masks: Candidates,
    rankings: Rankings,
    recipe: ConstrainedRecipe,
    *,
    demanded: float,
    spared: float,
) -> Solution:
    """The smallest mask that holds, pruned.

    Args:
        problem: What was searched for.
        masks: What was found.
        rankings: What else there is to be cut.
        recipe: Settings.
        demanded: Logits by which a smaller mask must lead on noise to be taken for what was found.
        spared: What pruning leaves of such a lead.

    Returns:
        See `expcam.explain.solver.solve_constrained`.
    """
    masks.check.exact = True  # what holds from here on is what is returned
    _drop_what_rounding_made(masks)
    disc = centred_disc(problem.classifier, problem.x, problem.label)
    _cut_once_more(masks, rankings, disc, demanded if masks.found else 0.0)
    best, check = _confirmed(masks, spared, recipe.most_passes)
    if check.margin <= 0:
        ranks = _relaxed(masks, rankings.last, recipe.acceptable)
        return Solution(ranks > 0.5, ranks, cell=0)
    pruned = prune(best.mask, check, recipe.most_passes)
    ranks = torch.where(pruned.mask, best.ranks, best.ranks.clamp(max=0.5))
    return Solution(pruned.mask, ranks, pruned.cell)


def _drop_what_rounding_made(masks: Candidates) -> None:
    """Of what was found last, drop what holds on the views that do not vary in bfloat16 only.

    There a lead of next to nothing is enough; on others more was demanded.
    """
    check = masks.check.fixed()
    while masks.found and not check.holds(masks.best.mask):
        masks.found.pop()


def _cut_once_more(masks: Candidates, rankings: Rankings, disc: Tensor, demanded: float) -> None:
    """Cut rankings at growing areas until one holds: the last, the best, and simple ones."""
    best = masks.best if masks.found else rankings.nearest
    cuts = [(rankings.last, _around(min(rankings.area, masks.best.area)))]
    if best is not None:
        cuts.append((best.ranks, _around(best.area)))
    if not masks.found:
        # The area may have fallen so far that the steps could not rank what is missing.
        cuts += [(ranking, _around(area)) for ranking, area in rankings.larger]
    # Attribution and a disc are what masks are compared with: ours need be no larger.
    cuts += [(rankings.guess, GUESSED_AREAS), (disc, GUESSED_AREAS)]
    for ranking, areas in cuts:
        for area in areas:
            if area >= masks.best.area:
                break
            candidate = masks.tried(ranking, area, demanded)
            if candidate.margin > 0:
                masks.found.append(candidate)
                break


def _confirmed(masks: Candidates, spared: float, most_passes: float) -> tuple[Candidate, Check]:
    """The last mask that holds on views, too, that had no part in choosing it.

    The earlier ones are larger and were asked for as much. A larger cut of the same ranking
    is no better: what lies beyond the edge was found to be of no use. Where none holds, the
    best one on the views that chose it, on which some may fail that held up to rounding.
    Beside it the check that spares it.
    """
    chosen_by = masks.widen()
    failed, most = [], torch.inf  # until one holds on the views that chose it
    for each in reversed(masks.found or [masks.whole]):
        spent = masks.check.cost > most_passes
        if each.area > most or (spent and most < torch.inf):
            break
        check = masks.check.sparing(each.mask, spared)
        if check.margin > 0:
            return each, check
        failed.append((each, check.among(chosen_by)))
        if failed[-1][1].margin > 0:
            most = min(most, MOST_ENLARGED * each.area)
    chosen_by.exact, masks.check = True, chosen_by
    return max(failed, key=lambda pair: pair[1].margin)


def _relaxed(masks: Candidates, ranking: Tensor, acceptable: float) -> Tensor:
    """Of a few level sets of a ranking the smallest that holds on most views; else all pixels."""
    masks.check.demanded = 0.0
    for area in (each for each in RELAXED_AREAS if each < masks.whole.area):
        ranks = masks.cut(ranking, area)
        mask = ranks > 0.5
        if masks.check.share(mask) >= acceptable and masks.check.fixed().holds(mask):
            return ranks
    return masks.whole.ranks


def _around(area: float) -> tuple[float, ...]:
    return tuple(factor * area for factor in LAST_FACTORS)
