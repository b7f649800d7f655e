"""What can be asked of a mask. Importing this module does not load torch."""

from collections.abc import Sequence
from dataclasses import dataclass

PUBLISHED: Sequence[str] = ("zero", "normal", "uniform")
"""The backgrounds of the published abductive constraint."""
EVALUATION: Sequence[str] = ("zero", "blur", *["normal"] * 3, *["uniform"] * 3)
"""The eight backgrounds on which a robust mask keeps the label."""

DEFAULT_RECIPE, PUBLISHED_RECIPE = "constrained", "paper"
RECIPE_NAMES = (DEFAULT_RECIPE, "free", PUBLISHED_RECIPE)
"""The solvers, for the command's help; see `expcam.explain.recipes.RECIPES`."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What must hold of a mask, as small as it may be.

    Attributes:
        title: In words, after "the smallest mask …".
        training: Backgrounds on which the mask's pixels alone must keep the label, as the steps
            of a solver see them; none where keeping is not asked for.
        checks: Backgrounds on which a hard mask must keep it to be taken.
        confirmation: Further ones for what is left in the end.
        removal: Whether the label must be lost when the mask's pixels are replaced by the mean
            colour.
    """

    title: str
    training: Sequence[str]
    checks: Sequence[str]
    confirmation: Sequence[str] = ()
    removal: bool


CHECKS: Sequence[str] = ("zero", "blur", *["normal"] * 7, *["uniform"] * 3)
"""On which a solver checks a robust mask. Gaussian noise is mostly the hardest to withstand."""
CONFIRMATION: Sequence[str] = ("normal", "uniform") * 6
"""On which it confirms what it found: of many masks that are tried on the same draws the one that
is taken has been lucky."""
TRAINING: Sequence[str] = ("normal", "zero", "blur", "uniform")
"""What holds on Gaussian noise mostly holds on uniform noise, but not on every photograph."""


OBJECTIVES: dict[str, Objective] = {
    "robust": Objective(
        title="that keeps the label on any background",
        training=TRAINING,
        checks=CHECKS,
        confirmation=CONFIRMATION,
        removal=False,
    ),
    "sufficient": Objective(
        title="that keeps the label on the mean colour",
        training=("zero",),
        checks=("zero",),
        removal=False,
    ),
    "necessary": Objective(
        title="without which the label is lost",
        training=(),
        checks=(),
        removal=True,
    ),
    "both": Objective(
        title="that keeps the label on any background and without which it is lost",
        training=TRAINING,
        checks=CHECKS,
        confirmation=CONFIRMATION,
        removal=True,
    ),
}
DEFAULT_OBJECTIVE = "robust"
