"""Whether a hard choice keeps the decision, on perturbations fixed beforehand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expcam.search.parts import Model, Parts, Perturbation

ROUNDING = 0.01
"""Logits by which the margin must exceed zero: classes may be tied."""


class Check:
    """The property asked for, tried on hard choices.

    Args:
        parts: What is chosen from.
        model: Runs the perturbed inputs.
        perturbations: On each of them the margin must suffice.

    Attributes:
        runs: How many perturbed inputs were run, each a forward pass.
    """

    def __init__(self, parts: Parts, model: Model, perturbations: Sequence[Perturbation]) -> None:
        self.parts, self.model, self.perturbations = parts, model, list(perturbations)
        self.runs = 0
        self._order = list(range(len(self.perturbations)))

    def needed(self, demand: float) -> Tensor:
        """The margin that each perturbation asks for: ``demand`` logits where it is random."""
        wanted = [max(ROUNDING, demand if each.random else 0.0) for each in self.perturbations]
        return torch.tensor(wanted)

    def spread(self, margins: Tensor) -> float:
        """Standard deviation of margins ``(perturbations,)`` from draw to draw.

        Of the kind that is drawn most often; 0 where none is drawn more than once.
        """
        kinds = [by.kind for by in self.perturbations if by.random]
        if len(kinds) == len(set(kinds)):
            return 0.0
        most = max(kinds, key=kinds.count)
        return float(margins[[by.kind == most for by in self.perturbations]].std())

    def margins(self, choices: Tensor, places: Sequence[int] | None = None) -> Tensor:
        """By how many logits choices do what is asked.

        Args:
            choices: Boolean ``(n, *shape)``.
            places: Which perturbations; None for all.

        Returns:
            ``(n, perturbations)``, on the CPU.
        """
        some = [self.perturbations[i] for i in (self._every if places is None else places)]
        pairs = [(choice, by) for choice in choices for by in some]
        outputs = self.model.outputs([self.parts.perturbed(choice, by) for choice, by in pairs])
        self.runs += len(pairs)
        margins = self.parts.margins(outputs, [by for _, by in pairs]).cpu()
        signs = torch.tensor([-1.0 if by.removal else 1.0 for _, by in pairs])
        return (margins * signs).view(len(choices), len(some))

    def holds(self, choice: Tensor, needed: Tensor) -> bool:
        """Whether one choice has the margin that is needed everywhere.

        Most that fail do so on what refuted the last one, which is tried first.
        """
        done, size = 0, 1
        while done < len(self._order):
            places = self._order[done : done + size]
            spare = self.margins(choice[None], places)[0] - needed[places]
            if spare.min() < 0:
                hardest = places[int(spare.argmin())]
                self._order.remove(hardest)
                self._order.insert(0, hardest)
                return False
            done, size = done + size, 2 * size
        return True

    def worst(self, choices: Tensor, needed: Tensor) -> Tensor:
        """What each choice has to spare on the hardest perturbation so far, ``(n,)``."""
        hardest = self._order[0]
        return self.margins(choices, [hardest])[:, 0] - needed[hardest]

    @property
    def _every(self) -> Sequence[int]:
        return range(len(self.perturbations))
