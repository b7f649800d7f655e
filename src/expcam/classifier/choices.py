"""The choices behind a decision: which logits compete for it.

Of a classifier of one among several classes all do. Where the question is why this class rather
than that one, only the two; where each class is a finding by itself, yes and no.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEADING = 1
"""Index of the class that is explained in the two logits of a `Pair` or a `Finding`."""


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


@dataclass(frozen=True)
class Finding:
    """A class that is there or is not, whatever else there is.

    Attributes:
        label: Its index.
    """

    label: int

    def logits(self, logits: Tensor) -> Tensor:
        """Logits ``(batch, 2)`` of no and yes, from those of all classes ``(batch, classes)``.

        They are 0 and the class's own, which stands at index `LEADING`: their softmax is its
        sigmoid, and a tie goes to no.
        """
        own = logits[:, self.label]
        return torch.stack([torch.zeros_like(own), own], 1)
