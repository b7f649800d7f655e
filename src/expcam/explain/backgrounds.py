"""What stands where the mask removes pixels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from expcam.explain.objectives import EVALUATION
from expcam.explain.request import SEEDS

Background = Callable[[Tensor, torch.Generator], Tensor]
"""Maps an image ``(channels, H, W)`` and a source of random numbers to a background like it."""


def zero(x: Tensor, rng: torch.Generator) -> Tensor:
    """The data set's mean colour, which is 0 in normalised space."""
    return torch.zeros_like(x)


def blur(x: Tensor, rng: torch.Generator) -> Tensor:
    """The image itself, blurred with a standard deviation of one twentieth of its side."""
    sigma = min(x.shape[-2:]) / 20
    blurred: Tensor = gaussian_blur(x, 2 * round(2 * sigma) + 1, sigma)
    return blurred


def normal(x: Tensor, rng: torch.Generator) -> Tensor:
    """Independent N(0, 1) noise."""
    return torch.randn(x.shape, generator=rng).to(x)


def uniform(x: Tensor, rng: torch.Generator) -> Tensor:
    """Independent U(-1, 1) noise."""
    return (torch.rand(x.shape, generator=rng) * 2 - 1).to(x)


BACKGROUNDS: dict[str, Background] = {
    "zero": zero,
    "blur": blur,
    "normal": normal,
    "uniform": uniform,
}
RANDOM = frozenset({"normal", "uniform"})
"""Those that differ from draw to draw."""
DRAWS = 32
"""Independent backgrounds behind the statistical statement on a mask."""


def draw(names: Sequence[str], x: Tensor, rng: torch.Generator) -> Tensor:
    """One background per name, stacked: ``(len(names), channels, H, W)``."""
    return torch.stack([BACKGROUNDS[name](x, rng) for name in names])


def training_rng(seed: int) -> torch.Generator:
    """Random numbers for a search; ``seed`` lies below `SEEDS`."""
    return torch.Generator().manual_seed(seed)


def evaluation_backgrounds(x: Tensor, seed: int) -> Tensor:
    """The backgrounds of `EVALUATION`, ``(n, channels, H, W)``, from a seed that no search uses."""
    return draw(EVALUATION, x, evaluation_rng(seed))


def evaluation_draws(x: Tensor, seed: int) -> Tensor:
    """Independent backgrounds, half N(0, 1) and half U(-1, 1): ``(DRAWS, channels, H, W)``.

    They come from a seed that no search uses, and are none of `evaluation_backgrounds`.
    """
    rng = evaluation_rng(seed)
    draw(EVALUATION, x, rng)
    return draw(["normal", "uniform"] * (DRAWS // 2), x, rng)


def evaluation_rng(seed: int) -> torch.Generator:
    """Random numbers that no search uses; ``seed`` lies below `SEEDS`."""
    return torch.Generator().manual_seed(SEEDS + seed)
