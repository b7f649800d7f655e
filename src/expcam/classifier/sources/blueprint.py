"""What a model's name stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from expcam.classifier.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a module is used on photographs.

    Attributes:
        transform: Maps a PIL image to the module's input.
        labels: Names of the classes that it was trained for; None where nobody published them.
        mean: What the transform subtracts of each channel, where it does not tell itself.
        std: What it divides by then.
        multi_label: Whether each class is a finding by itself; None where nobody says.
    """

    transform: Transform
    labels: tuple[str, ...] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    multi_label: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A model that can be built.

    Attributes:
        name: What reports call it.
        build: Gives the module with random weights, for so many classes; None for as many as it
            was published with.
        published: Gives the module with its published weights.
        usage: How a module that was built is used.
        training_only: Beginnings of the names of tensors that only training uses: they may be in
            a file of weights, but are not in the module.
    """

    name: str
    build: Callable[[int | None], nn.Module]
    published: Callable[[], nn.Module]
    usage: Callable[[nn.Module], Usage]
    training_only: tuple[str, ...] = ()
