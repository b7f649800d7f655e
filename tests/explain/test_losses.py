import math

import pytest
import torch
from torch import Tensor

from expcam.explain.losses import (
    TERMS,
    Observation,
    Reference,
    holding,
    losing,
    total_variation,
    weighted,
)


def observation(
    probability: Tensor | None = None,
    whole: tuple[float, ...] = (0.0, 0.0),
    masked: tuple[tuple[float, ...], ...] = ((0.0, 0.0),),
    taps: tuple[tuple[Tensor, Tensor], ...] = (),
) -> Observation:
    return Observation(
        probability=torch.full((2, 2), 0.5) if probability is None else probability,
        logits=torch.tensor(masked, dtype=torch.float64),
        activations={str(n): masked_tap for n, (_, masked_tap) in enumerate(taps)},
        reference=Reference(
            logits=torch.tensor(whole, dtype=torch.float64),
            activations={str(n): whole_tap for n, (whole_tap, _) in enumerate(taps)},
            label=1,
        ),
    )


def test_there_are_the_seven_published_terms() -> None:
    assert list(TERMS) == ["act", "ce", "kl", "area", "bin", "tv", "rob"]


def test_keeping_and_losing_a_label() -> None:
    # The label has probability 3/4 and 1/2 with the mask's pixels, 1/4 without them.
    kept = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    lost = torch.tensor([[math.log(3), 0.0]])
    assert float(holding(kept, 1)) == pytest.approx(math.log(4 / 3) / 2 + math.log(2) / 2)
    assert float(losing(lost, 1)) == pytest.approx(-math.log(3 / 4))


def test_cross_entropy_looks_at_the_explanation_alone() -> None:
    seen = observation(masked=((0.0, math.log(3)), (50.0, 0.0)))
    assert float(TERMS["ce"](seen)) == pytest.approx(math.log(4 / 3))


def test_distillation_at_temperature_two() -> None:
    # softmax(f/2) is (1/4, 3/4) on the whole image and (1/2, 1/2) on the explanation.
    seen = observation(whole=(0.0, 2 * math.log(3)), masked=((0.0, 0.0), (9.0, 0.0)))
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(TERMS["kl"](seen)) == pytest.approx(4 * divergence)


def test_robustness_is_the_mean_over_backgrounds() -> None:
    seen = observation(whole=(0.0, math.log(3)), masked=((0.0, math.log(3)), (0.0, 0.0)))
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(TERMS["rob"](seen)) == pytest.approx(divergence / 2)


def test_mask_terms() -> None:
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    seen = observation(probability=p)
    assert float(TERMS["area"](seen)) == 0.5
    assert float(TERMS["bin"](seen)) == 0.125
    # Down |1-.5| and |0-.5|, right |1-0| and 0, diagonals |.5-1| and |.5-0|.
    expected = pytest.approx(0.5 + 0.5 + (0.5 + 0.5) / math.sqrt(2))
    assert float(TERMS["tv"](seen)) == float(total_variation(p)) == expected


def test_activation_matching_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(1, 3, 4, 4, generator=generator)
    orthogonal = (
        torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4),
        torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4),
    )
    # Deep taps are standardised: a map and its negative are (1, -1) and (-1, 1), 4 apart.
    deep = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2)
    taps = (orthogonal, (same, same), (deep, -deep))
    # Of three taps the weights are 2, 4 and 8, the last ones of the published five.
    assert float(TERMS["act"](observation(taps=taps))) == pytest.approx(2 * 1 + 0 + 8 * 4, rel=1e-4)


def test_the_loss_is_the_weighted_sum() -> None:
    seen = observation(masked=((0.0, math.log(3)),))
    expected = 2 * math.log(4 / 3) + 10 * 0.5
    assert float(weighted(seen, {"ce": 2, "area": 10})) == pytest.approx(expected)
    with pytest.raises(KeyError):
        weighted(seen, {"magic": 1})
