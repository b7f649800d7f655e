import torch

from expcam.explain import backgrounds as bg


def test_eight_backgrounds_two_of_them_fixed() -> None:
    x = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    drawn = bg.evaluation_backgrounds(x, seed=0)
    assert drawn.shape == (8, 3, 40, 40)
    assert (drawn[0] == 0).all()
    # Blurring keeps the mean and takes the variation.
    assert torch.allclose(drawn[1].mean(), x.mean(), atol=0.02)
    assert drawn[1].std() < x.std() / 4
    assert abs(float(drawn[2:5].std()) - 1) < 0.02
    assert float(drawn[5:].abs().max()) <= 1
    assert abs(float(drawn[5:].std()) - 3**-0.5) < 0.02


def test_seeds_repeat_and_evaluation_is_unlike_training() -> None:
    x = torch.zeros(3, 8, 8)
    assert torch.equal(bg.evaluation_backgrounds(x, 3), bg.evaluation_backgrounds(x, 3))
    held_out = bg.evaluation_backgrounds(x, 3)[2]
    trained = bg.draw(("normal",), x, bg.training_rng(3))[0]
    assert not torch.equal(held_out, trained)


def test_the_global_random_state_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    bg.evaluation_backgrounds(torch.zeros(3, 8, 8), 0)
    assert torch.equal(before, torch.random.get_rng_state())
