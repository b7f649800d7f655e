"""Networks that emit mask logits for one image, and how they learn them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

CELL = 2
"""Least side in pixels of a mask's cells."""
GRID = 90
"""Cells a side of a mask; fewer on a small image, larger ones on a large one."""

RESIDUAL = "residual"
"""What a generator calls its free logits, one for each cell, if it has any."""

FILTER_RATE = 1e-5
"""Adam's; faster, and all cells move when one does."""
RESIDUAL_RATE = 0.1
"""How far the residual logits move in the first step, in standard deviations of the logits."""
MOMENTUM = 0.7
LAST_RATE = 0.1
"""Both rates in the last step, as a share of the first: coarse at first, fine at the end."""
SMOOTHING = 0.012
"""Standard deviation, as a share of the side, of the Gaussian that smooths the gradient at first;
it falls to half. What single cells gain beside one draw of noise is mostly chance."""
TINY = 1e-12
"""Keeps a step finite where there is no gradient."""

FIT_STEPS = 30
FIT_RATE = 3e-3


def grid_for(x: Tensor) -> int:
    """Cells a side for an image ``(channels, H, W)``: at least `CELL` pixels each."""
    return max(4, min(GRID, min(x.shape[-2:]) // CELL))


class ConvAutoencoder(nn.Module):
    """A small stride-2 convolutional autoencoder with skip connections and free residual logits.

    It sees the image averaged down to ``2 × grid`` pixels a side and emits logits for every
    second cell, which are interpolated: a step that costs little beside the classifier's. The
    residual logits, one for each cell, add what the shared filters are too slow to express
    within a hundred steps.
    """

    def __init__(self, grid: int = GRID, channels: int = 3, width: int = 24) -> None:
        super().__init__()
        self.grid = grid
        self.down1 = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down3 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(4 * width + 2 * width, 2 * width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, 1, 1)
        self.residual = nn.Parameter(torch.zeros(1, 1, grid, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits ``(H, W)`` of a normalised image ``(channels, H, W)``."""
        small = F.adaptive_avg_pool2d(x[None], 2 * self.grid)
        fine = F.relu(self.down2(F.relu(self.down1(small))))
        coarse = F.interpolate(F.relu(self.down3(fine)), size=fine.shape[-2:], mode="bilinear")
        features = F.relu(self.up(torch.cat([coarse, fine], 1)))
        coarse = F.interpolate(self.last(features), size=self.grid, mode="bilinear")
        return F.interpolate(coarse + self.residual, size=x.shape[-2:], mode="bilinear")[0, 0]


class FreeLogits(nn.Module):
    """One free logit per cell of a grid, interpolated to the image; sees no pixels."""

    def __init__(self, grid: int = GRID) -> None:
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(1, 1, grid, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits ``(H, W)`` of a normalised image ``(channels, H, W)``."""
        return F.interpolate(self.residual, size=x.shape[-2:], mode="bilinear")[0, 0]


class UNet(nn.Module):
    """The published generator: a U-Net ``3→32→64→128→256→512`` without normalisation layers."""

    def __init__(
        self, channels: int = 3, widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            _double(cin, cout) for cin, cout in zip((channels, *widths), widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs
        )
        self.decoder = nn.ModuleList(_double(2 * shallow, shallow) for _, shallow in pairs)
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits ``(H, W)`` of a normalised image ``(channels, H, W)``, sides at least 16."""
        size = x.shape[-2:]
        stride = 2 ** len(self.upsample)
        pad = (0, -size[1] % stride, 0, -size[0] % stride)
        z = F.pad(x[None], pad)
        skips: list[Tensor] = []
        for block in self.encoder:
            z = block(F.max_pool2d(z, 2) if skips else z)
            skips.append(z)
        skips.pop()
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            z = block(torch.cat([upsample(z), skips.pop()], 1))
        logits: Tensor = self.last(z)
        return logits[0, 0, : size[0], : size[1]]


GENERATORS: dict[str, Callable[[Tensor], nn.Module]] = {
    "autoencoder": lambda x: ConvAutoencoder(grid_for(x), len(x)),
    "free": lambda x: FreeLogits(grid_for(x)),
    "unet": lambda x: UNet(len(x)),
}
"""Each builds for an image ``(channels, H, W)`` a module that maps it to mask logits ``(H, W)``."""


def fitted(name: str, x: Tensor, guess: Tensor, seed: int) -> nn.Module:
    """A generator of `GENERATORS` whose logits are a first guess.

    Filters are fitted to it; residual logits hold what the filters miss.

    Args:
        name: A key of `GENERATORS`.
        x: Normalised image ``(channels, H, W)``.
        guess: Logits ``(H, W)``.
        seed: Of the filters' initial values.
    """
    generator = seeded(name, x, seed)
    shared = [p for key, p in generator.named_parameters() if key != RESIDUAL]
    if shared:
        optimizer = torch.optim.Adam(shared, lr=FIT_RATE)
        for _ in range(FIT_STEPS):
            generator.zero_grad()
            F.mse_loss(generator(x), guess).backward()
            optimizer.step()
        generator.zero_grad()
    with torch.no_grad():
        rest = (guess - generator(x))[None, None]
        for key, grid in generator.named_parameters():
            if key == RESIDUAL:
                grid.add_(F.adaptive_avg_pool2d(rest, (grid.shape[-2], grid.shape[-1])))
    return generator


def seeded(name: str, x: Tensor, seed: int) -> nn.Module:
    """A generator of `GENERATORS` for an image ``(channels, H, W)``, initialised from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = GENERATORS[name](x).to(x.device)
        return generator.to(memory_format=torch.channels_last)


class MaskScorer:
    """Scores pixels by a generator's logits, and lets it learn from their gradients.

    Its filters learn by Adam. Its residual logits move along their smoothed gradient, by a share
    of the logits' spread, because their ranking alone counts.

    Args:
        generator: See `fitted`.
        x: Normalised image ``(channels, H, W)``.
    """

    def __init__(self, generator: nn.Module, x: Tensor) -> None:
        named = dict(generator.named_parameters())
        self._generator, self._x = generator, x
        self._residual = named.pop(RESIDUAL, None)
        self._velocity = None if self._residual is None else torch.zeros_like(self._residual)
        self._filters = torch.optim.Adam(named.values(), lr=FILTER_RATE) if named else None
        self._spread = torch.ones(())

    def __call__(self) -> Tensor:
        """Mask logits ``(H, W)``."""
        logits: Tensor = self._generator(self._x)
        self._spread = logits.detach().std()
        return logits

    def step(self, progress: float) -> None:
        """Learn; steps and smoothing get smaller with the progress in ``[0, 1]``."""
        decay = LAST_RATE**progress
        if self._filters is not None:
            self._filters.param_groups[0]["lr"] = FILTER_RATE * decay
            self._filters.step()
        if self._residual is not None and self._residual.grad is not None:
            sigma = SMOOTHING * (1 - progress / 2) * self._residual.shape[-1]
            gradient = gaussian_blur(self._residual.grad, 2 * math.ceil(3 * sigma) + 1, sigma)
            assert self._velocity is not None
            # One scale for all cells: Adam would move those that do not matter as far as those
            # that do.
            self._velocity *= MOMENTUM
            self._velocity += gradient / (gradient.square().mean().sqrt() + TINY) * self._spread
            with torch.no_grad():
                self._residual.sub_(RESIDUAL_RATE * decay * self._velocity)
        self._generator.zero_grad()


def _double(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1),
        nn.ReLU(inplace=True),
    )
