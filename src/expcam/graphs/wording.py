"""Findings in words that claim no more than was checked."""

import math

from expcam.explain.explanation import Explanation
from expcam.explain.objectives import OBJECTIVES


def share(value: float) -> str:
    """A share as a percentage; NaN as a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def verdict(explanation: Explanation) -> str:
    """The finding in a few sentences."""
    e, area = explanation, share(explanation.area)
    says = f"says “{e.label_name}”"
    if e.contrast is not None:
        says = f"prefers “{e.label_name}” to “{e.contrast_name}”"
    if OBJECTIVES[e.objective].checks:
        return _sufficiency(e, says, area)
    if not e.necessary:
        return (
            f"No part was found without which the classifier no longer {says}: "
            f"without the one shown, {area} of the pixels, it still does."
        )
    alone = "are" if e.kept else "are not"
    return (
        f"Without these {area} of the pixels the classifier no longer {says}. "
        f"On plain grey they {alone} enough by themselves."
    )


def minimality(explanation: Explanation) -> str:
    """What is known of the mask's size beyond the search that found it."""
    if not explanation.cell:
        return "The mask was not pruned."
    return (
        "The mask is locally minimal: no connected piece of it and no block of "
        f"{explanation.cell}×{explanation.cell} pixels that it touches could be dropped on the "
        "solver's own backgrounds. It is not proven to be the smallest."
    )


def _sufficiency(e: Explanation, says: str, area: str) -> str:
    if not e.kept:
        return (
            f"No mask was found under which the classifier still {says}: "
            f"the one shown, {area} of the pixels, does not keep it."
        )
    sentence = f"These {area} of the pixels are enough: on plain grey the classifier still {says}"
    if e.robustness == 1:
        sentence += ", and so it does on all eight unseen backgrounds."
    else:
        held = round(8 * e.robustness)
        sentence += f", but only on {held} of eight unseen backgrounds."
    if e.necessary:
        return f"{sentence} Without them it no longer does."
    return f"{sentence} It can do without them: the rest of the photograph is enough as well."
