"""Hard masks that a search cuts from what ranks the pixels, and checks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.explain.checks import Check
from expcam.explain.pieces import specks
from expcam.explain.projection import rank


@dataclass(frozen=True)
class Candidate:
    """A mask that was checked.

    Attributes:
        area: Share of pixels.
        ranks: Probabilities ``(H, W)`` that rank all pixels; the mask is where they exceed 0.5.
        margin: What the check said; above 0 the mask holds.
    """

    area: float
    ranks: Tensor
    margin: float

    @property
    def mask(self) -> Tensor:
        """Boolean ``(H, W)``."""
        return self.ranks > 0.5


class Candidates:
    """Those of one search.

    Args:
        allowed: Boolean ``(H, W)``; pixels that a mask may keep.
        check: What they are checked with.
        speck: A piece with a smaller share of a mask than this is left out of it.

    Attributes:
        check: What they are checked with at present.
        speck: See above.
        found: Those that hold, each better than the one before.
        whole: All allowed pixels, unchecked.
    """

    def __init__(self, allowed: Tensor, check: Check, speck: float) -> None:
        self.check, self.speck = check, speck
        self.found: list[Candidate] = []
        everything = allowed.float()
        self.whole = Candidate(float(everything.mean()), everything, -torch.inf)
        self._allowed = allowed
        self._chosen_by: Check | None = None

    @property
    def best(self) -> Candidate:
        """The last that was found, or all pixels."""
        return self.found[-1] if self.found else self.whole

    def tried(
        self, ranking: Tensor, area: float, demanded: float, *, above: float = 0.0
    ) -> Candidate:
        """Cut a mask and check it.

        Args:
            ranking: ``(H, W)``; what is higher is kept first.
            area: Share of the pixels to keep.
            demanded: Logits by which the label must lead on random backgrounds.
            above: See `Check.margins`.
        """
        self.check.demanded = demanded
        ranks = self.cut(ranking, area)
        mask = ranks > 0.5
        margin = self.check.margins(mask[None], above=above)
        return Candidate(float(mask.float().mean()), ranks, float(margin))

    def cut(self, ranking: Tensor, area: float) -> Tensor:
        """Probabilities ``(H, W)`` that exceed 0.5 on that share of the pixels, less specks."""
        ranks = rank(ranking, self._allowed, area)
        return torch.where(self.specks(ranks), ranks.clamp(max=0.5), ranks)

    def specks(self, probability: Tensor) -> Tensor:
        """Where a mask ``(H, W)`` has pieces too small to be kept."""
        return specks(probability.detach() > 0.5, self.speck)

    def widen(self) -> Check:
        """From here on check on further views as well; return the check without them."""
        if self._chosen_by is None:
            self._chosen_by, self.check = self.check, self.check.widened()
        return self._chosen_by
