"""Findings in words that claim no more than was checked."""

import math

from expcam.explain.explanation import Explanation


def share(value: float) -> str:
    """A share as a percentage; NaN as a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def verdict(explanation: Explanation) -> str:
    """The finding in a sentence or two."""
    name, area = explanation.label_name, share(explanation.area)
    if not explanation.kept:
        return (
            f"No mask was found under which the classifier still says “{name}”: "
            f"the one shown, {area} of the pixels, does not keep it."
        )
    sentence = (
        f"These {area} of the pixels are enough: on plain grey the classifier still says “{name}”"
    )
    if explanation.robustness == 1:
        sentence += ", and so it does on all eight unseen backgrounds."
    else:
        held = round(8 * explanation.robustness)
        sentence += f", but only on {held} of eight unseen backgrounds."
    if explanation.necessary:
        return f"{sentence} Without them it says something else."
    return f"{sentence} It can do without them: the rest of the photograph is enough as well."
