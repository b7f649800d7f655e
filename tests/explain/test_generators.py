import pytest
import torch
from torch.nn import functional as F

from expcam.explain.generators import GENERATORS, fitted, grid_for


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("size", [(96, 96), (70, 100)])
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    generator = GENERATORS[name](x)
    logits = generator(x)
    assert logits.shape == size
    logits.square().sum().backward()
    assert any(p.grad is not None for p in generator.parameters())


def test_the_autoencoder_is_light_and_the_published_u_net_is_not() -> None:
    x = torch.zeros(3, 224, 224)
    sizes = {
        name: sum(p.numel() for p in build(x).parameters()) for name, build in GENERATORS.items()
    }
    assert sizes["free"] == 90 * 90
    assert sizes["autoencoder"] < 150_000
    assert 7.7e6 < sizes["unet"] < 7.9e6


def test_cells_do_not_get_smaller_than_two_pixels() -> None:
    assert grid_for(torch.zeros(3, 224, 224)) == 90
    assert grid_for(torch.zeros(3, 64, 80)) == 32


@pytest.mark.parametrize("name", ["autoencoder", "free"])
def test_a_fitted_generator_gives_the_guess_and_holds_no_gradient(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, 64, generator=rng)
    guess = F.interpolate(torch.randn(1, 1, 4, 4, generator=rng), size=(64, 64), mode="bilinear")[
        0, 0
    ]
    generator = fitted(name, x, guess, seed=0)
    with torch.no_grad():
        assert float((generator(x) - guess).abs().mean()) < 0.1
    assert all(p.grad is None for p in generator.parameters())
    again = fitted(name, x, guess, seed=0)
    assert torch.equal(generator(x), again(x))
