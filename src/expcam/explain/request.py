"""What can be asked of an explanation. Importing this module does not load torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from expcam.errors import OptionError
from expcam.explain.objectives import DEFAULT_OBJECTIVE, MATCHING, OBJECTIVES

DEFAULT_RECIPE, PUBLISHED_RECIPE = "constrained", "paper"
RECIPES = {DEFAULT_RECIPE: "autoencoder", "free": "free", PUBLISHED_RECIPE: "unet"}
"""How a mask is found, with the generator that emits it. ``constrained``: our search, which trains
an autoencoder; ``free``: the same search with bare mask logits; ``paper``: the published recipe
with its fixed weights."""
DEFAULT_MATCH = 0.8
"""The least pooled cosine similarity at the last tap, for objective `MATCHING` by itself."""
SEEDS = 2**31
"""Seeds lie below this; a generator looks at 32 bits, and the upper half is for evaluation."""


Target = int | str | Sequence[int | str] | None
"""A class, or several that count as one."""
Targets = Target | Iterable[Target]
"""One class for several images, or one for each."""


def for_each(name: str, given: Targets, images: int) -> list[Target]:
    """The class for each image: of a list its own, else the same for all.

    Args:
        name: What is given.
        given: An index or a label, or a list, array or tensor of them.
        images: How many there are.

    Raises:
        OptionError: There are more or fewer.
    """
    # A number that numpy or torch keep, as `argmax` gives it, is no list.
    alone = given is None or isinstance(given, str) or getattr(given, "ndim", None) == 0
    if alone or not isinstance(given, Iterable):
        return [given] * images  # type: ignore[list-item]
    each = list(given)
    if len(each) != images:
        raise OptionError(f"{name} names {len(each)} classes for {images} images")
    return each


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the caller asks for; see `explain_image`.

    Attributes:
        target: The class to explain, or several that count as one; None for the predicted one.
        contrast: The only class that it is compared to; None for all.
        objective: A key of `OBJECTIVES`; of a request it is `MATCHING` wherever a match is given.
        match: The least pooled cosine similarity of the activations, at the last tap or by tap;
            None where none is asked for.
        area: The share of pixels that the mask must have; None for as few as can be.
        recipe: A key of `RECIPES`.
        seed: From 0 below `SEEDS`.

    Raises:
        OptionError: For what no search can do.
    """

    target: Target = None
    contrast: Target = None
    objective: str = DEFAULT_OBJECTIVE
    match: float | Mapping[str, float] | None = None
    area: float | None = None
    recipe: str = DEFAULT_RECIPE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise OptionError(f"unknown recipe `{self.recipe}`; there are: {', '.join(RECIPES)}")
        if self.objective not in OBJECTIVES:
            raise OptionError(
                f"unknown objective `{self.objective}`; there are: {', '.join(OBJECTIVES)}"
            )
        self._settle_match()
        if self.area is not None and not 0 < self.area <= 1:
            raise OptionError(
                f"area {self.area} is out of range: a share of the pixels, above 0 and at most 1"
            )
        if not 0 <= self.seed < SEEDS:
            raise OptionError(f"seed {self.seed} is out of range: from 0 to {SEEDS - 1}")
        own = (self.objective, self.area) == (DEFAULT_OBJECTIVE, None)
        if self.recipe == PUBLISHED_RECIPE and not own:
            raise OptionError(
                f"recipe `{PUBLISHED_RECIPE}` has its own objective: it takes neither another one "
                "nor an area"
            )

    def _settle_match(self) -> None:
        """Objective and match, where one of them says the other."""
        if self.match is None and self.objective == MATCHING:
            object.__setattr__(self, "match", DEFAULT_MATCH)
        if self.match is None:
            return
        if self.objective not in (DEFAULT_OBJECTIVE, MATCHING):
            raise OptionError(f"a match goes with objective `{MATCHING}`, not `{self.objective}`")
        object.__setattr__(self, "objective", MATCHING)
        if isinstance(self.match, Mapping):
            if not self.match:
                raise OptionError("match names no tap")
            each = {str(tap): _similarity(value) for tap, value in self.match.items()}
            object.__setattr__(self, "match", each)
        else:
            object.__setattr__(self, "match", _similarity(self.match))


def _similarity(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise OptionError(f"match `{value}` is no number") from None
    if not 0 < number < 1:
        raise OptionError(f"match {value} is out of range: a similarity, above 0 and below 1")
    return number
