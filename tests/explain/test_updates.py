import pytest
import torch

from expcam.explain.generators import ConvAutoencoder, FreeLogits
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.updates import Updates

RECIPE = ConstrainedRecipe(steps=10, residual_rate=0.1, last_rate=0.01, smoothing=0.05)


def stepped(gradient: torch.Tensor, recipe: ConstrainedRecipe, times: int = 1) -> torch.Tensor:
    """Residual logits after steps along one gradient, from zeros, the logits' spread being 2."""
    generator = FreeLogits(grid=gradient.shape[-1])
    updates = Updates(generator, recipe)
    for step in range(times):
        generator.residual.grad = gradient.clone()[None, None]
        updates.step(torch.tensor([[-2.0, 2.0], [2.0, -2.0]]) * 3**0.5 / 2, step / recipe.steps)
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
    recipe = ConstrainedRecipe(steps=10, residual_rate=0.1, last_rate=0.01, momentum=0)
    gradient = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    before, after = (stepped(gradient, recipe, times) for times in (10, 11))
    last = float((after - before).square().mean().sqrt())
    assert last == pytest.approx(0.1 * 0.01 * 2, rel=1e-3)


def test_filters_and_residual_logits_both_learn() -> None:
    generator = ConvAutoencoder(grid=8)
    updates = Updates(generator, RECIPE)
    before = [each.detach().clone() for each in generator.parameters()]
    logits = generator(torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    logits.square().sum().backward()
    updates.step(logits, 0.0)
    for old, new in zip(before, generator.parameters(), strict=True):
        assert not torch.equal(old, new)
        assert new.grad is None
