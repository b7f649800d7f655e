"""Networks that emit mask logits for one image."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL = 2
"""Least side in pixels of a mask's cells."""
GRID = 90
"""Cells a side of a mask; fewer on a small image, larger ones on a large one."""

RESIDUAL = "residual"
"""What a generator calls its free logits, one for each cell, if it has any."""

FIT_STEPS = 30
FIT_RATE = 3e-3


def grid_for(x: Tensor) -> int:
    """Cells a side for an image ``(3, H, W)``: at least `CELL` pixels each."""
    return max(4, min(GRID, min(x.shape[-2:]) // CELL))


class ConvAutoencoder(nn.Module):
    """A small stride-2 convolutional autoencoder with skip connections and free residual logits.

    It sees the image averaged down to ``2 × grid`` pixels a side and emits logits for every
    second cell, which are interpolated: a step that costs little beside the classifier's. The
    residual logits, one for each cell, add what the shared filters are too slow to express
    within a hundred steps.
    """

    def __init__(self, grid: int = GRID, width: int = 24) -> None:
        super().__init__()
        self.grid = grid
        self.down1 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down3 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(4 * width + 2 * width, 2 * width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, 1, 1)
        self.residual = nn.Parameter(torch.zeros(1, 1, grid, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits ``(H, W)`` of a normalised image ``(3, H, W)``."""
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
        """Mask logits ``(H, W)`` of a normalised image ``(3, H, W)``."""
        return F.interpolate(self.residual, size=x.shape[-2:], mode="bilinear")[0, 0]


class UNet(nn.Module):
    """The published generator: a U-Net ``3→32→64→128→256→512`` without normalisation layers."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            _double(cin, cout) for cin, cout in zip((3, *widths), widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs
        )
        self.decoder = nn.ModuleList(_double(2 * shallow, shallow) for _, shallow in pairs)
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits ``(H, W)`` of a normalised image ``(3, H, W)``, sides at least 16."""
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
    "autoencoder": lambda x: ConvAutoencoder(grid_for(x)),
    "free": lambda x: FreeLogits(grid_for(x)),
    "unet": lambda x: UNet(),
}
"""Each builds, for an image ``(3, H, W)``, a module that maps it to mask logits ``(H, W)``."""


def fitted(name: str, x: Tensor, guess: Tensor, seed: int) -> nn.Module:
    """A generator of `GENERATORS` whose logits are a first guess.

    Filters are fitted to it; residual logits hold what the filters miss.

    Args:
        name: A key of `GENERATORS`.
        x: Normalised image ``(3, H, W)``.
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
    """A generator of `GENERATORS` for an image ``(3, H, W)``, its initial values from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = GENERATORS[name](x).to(x.device)
        return generator.to(memory_format=torch.channels_last)


def _double(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1),
        nn.ReLU(inplace=True),
    )
