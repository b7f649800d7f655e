"""Why this class rather than that one? A classifier with only two to choose from."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEADING = 1
"""Index of the first class in the logits that `Pair.logits` gives."""


@dataclass(frozen=True)
class Pair:
    """Two classes, by their indices.

    Attributes:
        first: The class that is explained.
        second: The class that it is compared with.
    """

    first: int
    second: int

    def logits(self, logits: Tensor) -> Tensor:
        """Logits ``(batch, 2)`` of the choice, from those of all classes ``(batch, classes)``.

        They are 0 and the margin of the first class over the second, which stands at index
        `LEADING`: the softmax of the two classes' own logits is the same, a gradient explains the
        difference, and a tie goes to the second class.
        """
        margin = logits[:, self.first] - logits[:, self.second]
        return torch.stack([torch.zeros_like(margin), margin], 1)
