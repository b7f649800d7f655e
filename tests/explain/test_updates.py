from dataclasses import replace

import pytest
import torch

from expcam.explain.generators import ConvAutoencoder, FreeLogits
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.updates import Updates

STEPS = 10
RECIPE = ConstrainedRecipe(residual_rate=0.1, last_rate=0.01, smoothing=0.05)


def stepped(gradient: torch.Tensor, recipe: ConstrainedRecipe, times: int = 1) -> torch.Tensor:
    """Residual logits after steps along one gradient, from zeros, the logits' spread being 2."""
    generator = FreeLogits(grid=gradient.shape[-1])
    updates = Updates(generator, recipe, STEPS)
    for _ in range(times):
        generator.residual.grad = gradient.clone()[None, None]
        updates.step(torch.tensor([[-2.0, 2.0], [2.0, -2.0]]) * 3**0.5 / 2)
    return generator.residual.detach()[0, 0]


def test_a_step_is_a_share_of_the_spread_of_the_logits_whatever_the_gradient() -> None:
    gradient = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    for scale in (1e-6, 1e6):
        moved = stepped(scale * gradient, RECIPE)
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.1 * 2, rel=1e-3)


def test_a_gradient_on_one_cell_moves_its_neighbours_too() -> None:
    gradient = torch.zeros(20, 20)
    gradient[10, 10] = 1
    moved = stepped(gradient, RECIPE)
    assert float(moved.min()) == float(moved[10, 10]) < 0
    # A standard deviation of one cell: the neighbour has exp(-1/2) of it.
    assert float(moved[10, 11] / moved[10, 10]) == pytest.approx(0.607, abs=0.01)
    assert float(moved[10, 14]) == 0


def test_steps_get_smaller() -> None:
    recipe = ConstrainedRecipe(residual_rate=0.1, last_rate=0.01, momentum=0)
    gradient = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    before, after = (stepped(gradient, recipe, times) for times in (10, 11))
    last = float((after - before).square().mean().sqrt())
    assert last == pytest.approx(0.1 * 0.01 * 2, rel=1e-3)


def test_filters_and_residual_logits_both_learn() -> None:
    generator = ConvAutoencoder(grid=8)
    updates = Updates(generator, RECIPE, STEPS)
    before = [each.detach().clone() for each in generator.parameters()]
    logits = generator(torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    logits.square().sum().backward()
    updates.step(logits)
    for old, new in zip(before, generator.parameters(), strict=True):
        assert not torch.equal(old, new)
        assert new.grad is None


def test_filters_are_updated_now_and_then_and_cost_nothing_in_between() -> None:
    generator = ConvAutoencoder(grid=8)
    updates = Updates(generator, replace(RECIPE, shared_interval=3), STEPS)
    x = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    moved, residual = [], []
    for _ in range(7):
        filters, logit = generator.down1.weight.detach().clone(), generator.residual.clone()
        logits = generator(x)
        logits.square().sum().backward()
        updates.step(logits)
        moved.append(not torch.equal(filters, generator.down1.weight))
        residual.append(not torch.equal(logit, generator.residual))
        assert generator.down1.weight.requires_grad is ((len(moved)) % 3 == 0)
    assert moved == [True, False, False, True, False, False, True]
    assert all(residual)
