"""What a search is handed: parts to choose from, perturbations, a property, and a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What takes the place of the parts that are left out.

    Attributes:
        kind: Its name.
        value: What stands there, as the parts understand it: for pixels a background
            ``(3, H, W)``.
        random: Whether it is one draw of many.
        removal: Whether the decision is to be lost: where it takes the place of the parts that
            are *kept*, for instance.
    """

    kind: str
    value: Any
    random: bool
    removal: bool


class Parts(Protocol):
    """What a search chooses from: the pixels of an image, the channels of a classifier."""

    allowed: Tensor
    """Boolean, of any shape: the parts that may be kept."""

    def perturbation(self, kind: str, rng: torch.Generator) -> Perturbation:
        """A perturbation of a kind; a random one is drawn."""

    def opposite(self, drawn: Perturbation) -> Perturbation:
        """The draw that lies opposite to a random one, with its sign changed."""

    def perturbed(self, keep: Tensor, by: Perturbation) -> Any:
        """The input with only these parts kept, differentiable in ``keep``.

        It is what the model takes: for pixels an image, for channels the choice and an image.

        Args:
            keep: Boolean, or probabilities, of the shape of ``allowed``.
            by: What takes the place of the others.
        """

    def loss(self, keep: Tensor, output: Any, by: Perturbation) -> Tensor:
        """What a step minimises, of what the model gave for one perturbed input."""

    def margins(self, outputs: Sequence[Any], by: Sequence[Perturbation]) -> Tensor:
        """Logit of the class less the highest other one, ``(n,)``.

        Args:
            outputs: What the model gave for so many perturbed inputs.
            by: Their perturbations; where one asks for something else than the class, the margin
                says how well it is done, in numbers of the same size.
        """

    cell_sizes: Sequence[int]
    """The sizes of cells that pruning tries to drop, the coarse ones first."""

    def cells(self, keep: Tensor, size: int) -> Tensor:
        """The cells of a choice, boolean ``(cells, *shape)``, at one of the sizes."""


class Scorer(Protocol):
    """What gives each part a score, and learns to."""

    def __call__(self) -> Tensor:
        """Scores of the shape of the parts; the highest are kept."""

    def step(self, progress: float) -> None:
        """Learn from the gradients of the scores, and clear them.

        Args:
            progress: Share of the steps that were taken.
        """


class Model(Protocol):
    """Runs perturbed inputs."""

    def with_gradient(self, inputs: Sequence[Any], *, smoothed: bool) -> Sequence[Any]:
        """An output for each input, for a step; ``smoothed`` as in `SmoothedGradients`."""

    def outputs(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """An output for each input, for a check, without gradient."""
