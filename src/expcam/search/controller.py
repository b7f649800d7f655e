"""What share of the parts the next step keeps."""

import math

from expcam.search.parts import Perturbation
from expcam.search.settings import Settings


class Controller:
    """Lets the share fall while the margin is more than enough, and rise while it is not.

    In the first half of the steps the margin is that of the steps themselves: of each kind of
    perturbation the running mean is kept, and the lowest counts. In the second half it is what
    the last check of a hard choice had to spare.

    Args:
        settings: See there.
        smallest: The least share, that of one part.
        largest: The greatest, that of all that may be kept.

    Attributes:
        share: What the next step keeps.
    """

    def __init__(self, settings: Settings, *, smallest: float, largest: float) -> None:
        self._settings, self._smallest, self._largest = settings, smallest, largest
        self._means: dict[str, float] = {}
        self._checked: float | None = None
        self.share = min(settings.first_share, largest)

    @property
    def hardest(self) -> str | None:
        """The kind with the lowest margin; None before any was seen."""
        return min(self._means, key=self._means.__getitem__, default=None)

    def margin(self, by: Perturbation) -> float:
        """The running mean of a kind's margin; one that was never seen is the hardest."""
        return self._means.get(by.kind, -math.inf)

    def see(self, kind: str, margin: float) -> None:
        """Take in the margin of a step, or of a check, on one kind of perturbation."""
        before = self._means.get(kind, margin)
        memory = self._settings.memory
        self._means[kind] = memory * before + (1 - memory) * margin

    def see_check(self, spare: float) -> None:
        """Take in by how much the worst margin of a hard choice exceeds what is demanded."""
        self._checked = spare

    def advance(self, progress: float) -> None:
        """Choose the next share; ``progress`` is the share of the steps that were taken."""
        settings = self._settings
        if self._checked is None:
            asked = settings.first_margin + progress / settings.early * (
                settings.last_margin - settings.first_margin
            )
            change = -settings.response * (min(self._means.values()) - asked)
        else:
            change = max(-settings.response * self._checked, -settings.growth)
        self.share *= math.exp(min(change, settings.growth))
        self.share = min(max(self.share, self._smallest), self._largest)
