"""The choices behind a decision: which logits compete for it.

Of a classifier of one among several classes all do. Where the question is why this class rather
than that one, only the two; where each class is a finding by itself, yes and no; where several
classes mean the same, they are one.
"""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Group:
    """Several classes that count as one.

    Attributes:
        members: Their indices.
    """

    members: Sequence[int]

    def logits(self, logits: Tensor) -> Tensor:
        """Logits of the group and of each other class, from those of all ``(batch, classes)``.

        The group stands first. Its logit is the logarithm of the summed exponentials of its
        members', so that its probability is the sum of theirs.
        """
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[list(self.members)] = False
        own = logits[:, ~others].logsumexp(1, keepdim=True)
        return torch.cat([own, logits[:, others]], 1)
