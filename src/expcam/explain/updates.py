"""Steps of a generator along its gradients."""

import math

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from torchvision.transforms.functional import gaussian_blur

from expcam.explain.generators import RESIDUAL
from expcam.explain.settings import ConstrainedRecipe


class Updates:
    """Optimisers of a generator: Adam for its filters, momentum for its residual logits.

    Args:
        generator: Its filters take part in a backward pass only where they are updated after it.
        recipe: Settings.
        steps: How many there are to be.
    """

    def __init__(self, generator: nn.Module, recipe: ConstrainedRecipe, steps: int) -> None:
        named = dict(generator.named_parameters())
        self._residual = named.pop(RESIDUAL, None)
        self._recipe, self._steps, self._taken = recipe, steps, 0
        self._shared = list(named.values())
        self._optimizers: list[torch.optim.Optimizer] = []
        if named:
            self._optimizers.append(torch.optim.Adam(named.values(), lr=recipe.shared_rate))
        if self._residual is not None:
            self._optimizers.append(
                torch.optim.SGD([self._residual], lr=recipe.residual_rate, momentum=recipe.momentum)
            )
        decay = math.pow(recipe.last_rate, 1 / steps)
        self._schedules = [ExponentialLR(each, decay) for each in self._optimizers]

    def step(self, logits: Tensor) -> None:
        """Update the generator from its gradients, and clear them.

        Args:
            logits: What it emitted, ``(H, W)``.
        """
        if self._residual is not None and self._residual.grad is not None:
            fallen = 1 - self._taken / self._steps / 2
            sigma = self._recipe.smoothing * fallen * self._residual.shape[-1]
            gradient = gaussian_blur(self._residual.grad, 2 * math.ceil(3 * sigma) + 1, sigma)
            # One scale for all cells: Adam would move those that do not matter as far as those
            # that do. In units of the logits' spread, because only their ranking counts.
            scale = gradient.square().mean().sqrt() + 1e-12
            self._residual.grad = gradient * logits.detach().std() / scale
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for schedule in self._schedules:
            schedule.step()
        self._taken += 1
        for filters in self._shared:
            filters.requires_grad_(self._taken % self._recipe.shared_interval == 0)
