"""How large the mask is at each step of the default solver, and what the step looks at."""

import math
from collections.abc import Sequence

from torch import Tensor

from expcam.explain import backgrounds as bg
from expcam.explain.objectives import Objective
from expcam.explain.settings import ConstrainedRecipe

REMOVAL = "removal"
"""Stands for the image without the mask's pixels where others are named by their background."""
COUNTEREXAMPLE = "counterexample"
"""Stands for a draw on which a check failed. It is not one of many, so that no lead follows it."""
FIRST_SPREAD = 0.5
"""Standard deviation in logits that a random view's lead is thought to have before it is seen."""
SPREAD_MEMORY = 0.85
"""Decay of the running mean of its square."""


class Steering:
    """The area of one mask, and the leads that it follows.

    A view is a background for the mask's pixels, or the image without them. Its lead says by how
    many logits the mask does what is asked on it.

    Attributes:
        area: Share of the pixels at the next step.
        views: What the next step looks at: keys of `BACKGROUNDS`, `REMOVAL` or
            `COUNTEREXAMPLE`.
        random: Whether some view differs from draw to draw.
        steps: How many there are to be.
        pinned: Whether the area no longer follows the leads.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: ConstrainedRecipe,
        *,
        budget: float | None,
        allowed: Tensor,
    ) -> None:
        """Start at the recipe's first area.

        Args:
            objective: What is asked for.
            recipe: Settings.
            budget: The area to end at; None where it follows the leads.
            allowed: Boolean ``(H, W)``; pixels that the mask may keep.
        """
        names = [*objective.training, *([REMOVAL] if objective.removal else [])]
        self._leads = {name: _Lead(recipe, name) for name in names}
        self._recipe, self._budget = recipe, budget
        self.random = any(each.random for each in self._leads.values())
        self.pinned = False
        case = 0 if self.random else 1
        self.steps, self._response = recipe.steps[case], recipe.response[case]
        self._below, self._trailing = recipe.below[case], recipe.trailing[case]
        self._smallest, self._largest = 1 / allowed.numel(), float(allowed.float().mean())
        self._first = max(recipe.first_area, budget or 0.0)
        self.area = min(self._first, self._largest)
        self.views = self._next_views(0)

    @property
    def lead(self) -> float:
        """The lead on the hardest view, less what is asked for in the steps."""
        return min(each.beyond for each in self._leads.values())

    @property
    def holds(self) -> bool:
        """Whether all leads suffice, in the running mean and when they were last seen."""
        return self.lead > 0 and all(each.last > each.asked for each in self._leads.values())

    @property
    def spread(self) -> float:
        """Standard deviation of the lead from draw to draw, on the random view where it is most.

        In logits; 0 where no view is random.
        """
        return max((each.spread for each in self._leads.values() if each.random), default=0.0)

    def see(self, leads: Sequence[float], step: int) -> None:
        """Take in the leads of a step on the present views."""
        for view, lead in zip(self.views, leads, strict=True):
            if view != COUNTEREXAMPLE:
                self._leads[view].see(lead, step)

    def pin(self, area: float) -> None:
        """Let the area be this one from now on."""
        self.area, self.pinned = area, True

    def advance(self, step: int, *, refuted: bool, confronted: bool = False) -> None:
        """Choose the next area and views.

        Args:
            step: The next one's number, from 0.
            refuted: Whether a check has just found what the steps do not see.
            confronted: Whether the last view is to be that `COUNTEREXAMPLE`.
        """
        recipe, lead, progress = self._recipe, self.lead, step / self.steps
        if self.pinned:
            pass
        elif self._budget is None:
            lead += self._trailing * max(0.0, 1 - progress / recipe.settling)
            lead = min(max(lead, -self._below), -self._below / 2 if refuted else recipe.above)
            self.area *= math.exp(-self._response * lead)
        else:
            fallen = min(progress / recipe.descent, 1.0)
            self.area = self._first * (self._budget / self._first) ** fallen
        self.area = min(max(self.area, self._smallest), self._largest)
        self.views = self._next_views(step)
        if confronted:
            self.views[-1] = COUNTEREXAMPLE

    def _next_views(self, step: int) -> list[str]:
        """The views not looked at for too long, then the hardest; two draws if it is random."""
        overdue = {name: each.overdue(step) for name, each in self._leads.items()}
        waiting = sorted((each for each in overdue if overdue[each] >= 0), key=overdue.__getitem__)
        hardest = sorted(self._leads, key=lambda name: self._leads[name].beyond)
        views = waiting[::-1][: self._recipe.views]
        while len(views) < self._recipe.views:
            again = [name for name in hardest if name in bg.RANDOM or name not in views]
            if not again:
                break
            views.append(again[0])
        return views


class _Lead:
    """The lead on one view, as the steps see it."""

    def __init__(self, recipe: ConstrainedRecipe, view: str) -> None:
        self.random = random = view in bg.RANDOM
        self._memory = recipe.memory if random else recipe.memory / 2
        self._unseen = recipe.unseen[0 if view == "normal" else 1]
        self._ahead = recipe.ahead[0 if random else 1]
        self._variance = FIRST_SPREAD**2
        self._seen: int | None = None
        self.mean = self.last = 0.0

    @property
    def asked(self) -> float:
        """By how many logits the label must lead."""
        return self._ahead * self.spread if self.random else self._ahead

    @property
    def beyond(self) -> float:
        """By how many logits more than that it leads."""
        return self.mean - self.asked

    @property
    def spread(self) -> float:
        """Standard deviation around the running mean."""
        return math.sqrt(self._variance)

    def see(self, lead: float, step: int) -> None:
        """Take in the lead of a step."""
        if self._seen is None:
            self.mean = lead
        error = lead - self.mean
        self.mean += (1 - self._memory) * error
        # The running mean itself varies: the error's variance is 2 / (1 + memory) of the lead's.
        variance = error**2 * (1 + self._memory) / 2
        if self._seen is not None:
            self._variance += (1 - SPREAD_MEMORY) * (variance - self._variance)
        self.last, self._seen = lead, step

    def overdue(self, step: int) -> float:
        """Steps since the view should have been looked at again."""
        return math.inf if self._seen is None else step - self._seen - self._unseen
