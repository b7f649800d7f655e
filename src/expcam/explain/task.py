"""What is asked of a solver, and what it gives."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What is asked of a solver.

    Attributes:
        objective: A key of `OBJECTIVES`.
        area: The share of pixels that the mask must have; None for as few as can be.
        seed: The same seed gives the same mask on the same machine, on a CPU.
    """

    objective: str
    area: float | None
    seed: int


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        mask: Boolean ``(H, W)``.
        probability: Float ``(H, W)`` in ``[0, 1]``; the mask is where it exceeds 0.5.
        cell: Side in pixels of the blocks at which the mask is locally minimal; 0 where it was
            not pruned.
    """

    mask: Tensor
    probability: Tensor
    cell: int
