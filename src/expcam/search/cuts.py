"""Hard choices that are cut from scores, and which of them is the answer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.search.checks import Check
from expcam.search.projection import rank
from expcam.search.pruning import Pruned, prune
from expcam.search.settings import Settings


@dataclass(frozen=True)
class Cut:
    """The best-scored share of the parts, and what a check said of it.

    Attributes:
        share: How many are kept.
        scores: All parts' scores as probabilities; those kept exceed 0.5.
        margins: On each perturbation of the check, ``(n,)``.
    """

    share: float
    scores: Tensor
    margins: Tensor

    @property
    def keep(self) -> Tensor:
        """Boolean, the parts that are kept."""
        return self.scores > 0.5


class Cuts:
    """The cuts of one search that were checked.

    Args:
        check: What each of them is tried on.
        settings: See there.

    Attributes:
        demand: By how many logits the margin must exceed zero where the perturbation is random:
            so many spreads, of the last cut.
    """

    def __init__(self, check: Check, settings: Settings) -> None:
        self.check, self._settings = check, settings
        self._allowed = check.parts.allowed
        self._cuts: list[Cut] = []
        self.demand = 0.0

    def add(self, scores: Tensor, share: float) -> Cut:
        """Cut scores at a share, and see what the choice does on every perturbation."""
        ranks = rank(scores, self._allowed, share)
        cut = Cut(share, ranks, self.check.margins((ranks > 0.5)[None])[0])
        self.demand = self._settings.demand * self.check.spread(cut.margins)
        self._cuts.append(cut)
        return cut

    def spare(self, cut: Cut) -> Tensor:
        """What a cut has to spare on each perturbation, ``(n,)``."""
        return cut.margins - self.check.needed(self.demand)

    def candidates(self, scores: Tensor) -> list[Cut]:
        """Those that pass, the smallest first; none holds where the list is empty.

        Where none has the margin that is demanded, it need only be positive.

        Args:
            scores: The last, which are cut at ever smaller shares than the smallest that passes;
                where none does, the nearest is cut at ever larger ones.
        """
        for demand in (self.demand, 0.0):
            needed = self.check.needed(demand)
            passing = [cut for cut in self._cuts if bool((cut.margins >= needed).all())]
            if passing:
                passing.sort(key=lambda cut: cut.share)
                return [*self._smaller(scores, passing[0].share, needed), *passing]
        nearest = max(self._cuts, key=lambda cut: float(cut.margins.min()))
        return self._larger(nearest)

    def _smaller(self, scores: Tensor, share: float, needed: Tensor) -> list[Cut]:
        found: list[Cut] = []
        while True:
            share /= self._settings.factor
            ranks = rank(scores, self._allowed, share)
            if not self.check.holds(ranks > 0.5, needed):
                return found
            found.insert(0, Cut(share, ranks, needed))
            if int((ranks > 0.5).sum()) == 1:
                return found

    def _larger(self, cut: Cut) -> list[Cut]:
        needed, most = self.check.needed(0.0), float(self._allowed.float().mean())
        share = cut.share
        while share < most:
            share = min(share * self._settings.factor, most)
            ranks = rank(cut.scores, self._allowed, share)
            if self.check.holds(ranks > 0.5, needed):
                return [Cut(share, ranks, needed)]
        return []

    def confirmed(self, candidates: list[Cut], further: Check) -> Cut:
        """The first that passes on further perturbations too, with its margins on these.

        Where none does, the one whose worst margin is best; of no candidates, all parts.
        """
        everything = Cut(1.0, self._allowed.float(), torch.empty(0))
        best: Cut | None = None
        for cut in candidates or [everything]:
            tried = Cut(cut.share, cut.scores, further.margins(cut.keep[None])[0])
            if bool((tried.margins >= further.needed(0.0)).all()):
                return tried
            if best is None or tried.margins.min() > best.margins.min():
                best = tried
        assert best is not None
        return best

    def pruned(self, cut: Cut, further: Check, most_runs: float) -> Pruned:
        """What is left of a cut when cells that can be spared are dropped.

        That lowers no margin below what was demanded, or below what it was; a cut that fails
        somewhere is left as it is.

        Args:
            cut: With its margins on the further perturbations.
            further: The check on these.
            most_runs: How many further inputs may be run.
        """
        if not bool((cut.margins >= further.needed(0.0)).all()):
            return Pruned(cut.keep, 0)
        needed = cut.margins.minimum(further.needed(self.demand))
        return prune(cut.keep, further, needed, further.runs + most_runs)
