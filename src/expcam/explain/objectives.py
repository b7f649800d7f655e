"""What a mask must do. Importing this module does not load torch."""

from collections.abc import Sequence
from dataclasses import dataclass

PUBLISHED: Sequence[str] = ("zero", "normal", "uniform")
"""The backgrounds of the published abductive constraint."""
EVALUATION: Sequence[str] = ("zero", "blur", *["normal"] * 3, *["uniform"] * 3)
"""The backgrounds on which a robust mask keeps the label."""

REMOVAL = "removal"
"""Stands among backgrounds for the mean colour in place of the mask's own pixels."""
MATCH = "match"
"""Stands among them for the mean colour, on which the activations are compared."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What must hold of a mask, as small as it may be.

    Attributes:
        title: In words, after "the smallest mask …".
        steps: The backgrounds that the steps of a search look at, the hardest first.
        checks: The backgrounds on which a hard mask is checked; a random one counts as often as
            it is named.
        fresh: Those on which the mask that passed is confirmed.
        likeness: Weight, beside the cross-entropy on the mean colour, of the distance between the
            activations of the last stage there and on the whole image (see `Matching.distance`).
    """

    title: str
    steps: Sequence[str]
    checks: Sequence[str]
    fresh: Sequence[str] = ()
    likeness: float = 0.0

    @property
    def keeping(self) -> bool:
        """Whether the label must be kept with the mask's pixels alone."""
        return self.checks[0] != REMOVAL

    @property
    def removal(self) -> bool:
        """Whether it must be lost when they are replaced by the mean colour."""
        return REMOVAL in self.checks

    @property
    def matching(self) -> bool:
        """Whether it must keep the activations."""
        return MATCH in self.checks


STEPS: Sequence[str] = ("normal", "zero", "blur", "uniform")
CHECKS: Sequence[str] = ("zero", "blur", *["normal"] * 7, *["uniform"] * 3)
"""Gaussian noise is mostly the hardest to withstand, and each draw is another."""
FRESH: Sequence[str] = ("normal", "uniform") * 6

LIKENESS = 6.0
"""It keeps a little more of the activations at about the same area; with more, it does not."""

DEFAULT_OBJECTIVE, MATCHING = "robust", "matching"
OBJECTIVES: dict[str, Objective] = {
    DEFAULT_OBJECTIVE: Objective(
        title="that keeps the label on any background",
        steps=STEPS,
        checks=CHECKS,
        fresh=FRESH,
        likeness=LIKENESS,
    ),
    "sufficient": Objective(
        title="that keeps the label on the mean colour",
        steps=("zero",),
        checks=("zero",),
    ),
    "necessary": Objective(
        title="without which the label is lost",
        steps=(REMOVAL,),
        checks=(REMOVAL,),
    ),
    "both": Objective(
        title="that keeps the label on any background and without which it is lost",
        steps=(*STEPS, REMOVAL),
        checks=(*CHECKS, REMOVAL),
        fresh=FRESH,
        likeness=LIKENESS,
    ),
    MATCHING: Objective(
        title="that keeps the label on any background, and the activations",
        steps=(*STEPS, MATCH),
        checks=(*CHECKS, MATCH),
        fresh=FRESH,
    ),
}
