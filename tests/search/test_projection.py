import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expcam.search.projection import project, rank


@given(st.integers(0, 1000), st.floats(0.001, 1), st.floats(0.01, 1))
def test_the_projection_has_just_the_area_asked_for(
    seed: int, area: float, softness: float
) -> None:
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    allowed = torch.ones_like(logits, dtype=torch.bool)
    p = project(logits, allowed, area, softness)
    assert int((p > 0.5).sum()) == max(1, round(area * 256))
    assert float(p.min()) >= 0
    assert float(p.max()) <= 1


def test_equal_logits_are_split_to_the_exact_area() -> None:
    allowed = torch.ones(8, 8, dtype=torch.bool)
    p = project(torch.zeros(8, 8), allowed, 0.25, 1.0)
    assert int((p > 0.5).sum()) == 16


def test_forbidden_pixels_have_probability_zero() -> None:
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    allowed = torch.zeros(8, 8, dtype=torch.bool)
    allowed[:4] = True
    p = project(logits, allowed, 0.9, 0.1)
    assert (p[4:] == 0).all()
    assert (p[:4] > 0.5).all()


def test_as_many_pixels_are_soft_as_asked_for_however_flat_the_logits_are() -> None:
    # The first 20 of 100 pixels lie far above the others, which hardly differ.
    logits = torch.arange(100.0, 0, -1).view(10, 10) / 1000
    logits[:2] += 1
    allowed = torch.ones(10, 10, dtype=torch.bool)
    for area, softness, soft in [(0.4, 0.4, 32), (0.5, 0.5, 50), (0.6, 0.1, 12)]:
        p = project(logits, allowed, area, softness)
        between = (p > 0.047) & (p < 0.953)
        assert int(between.sum()) == pytest.approx(soft, abs=2)


def test_ranks_keep_the_order_of_all_pixels() -> None:
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    ranks = rank(logits, torch.ones(16, 16, dtype=torch.bool), 0.1)
    assert int((ranks > 0.5).sum()) == 26
    assert torch.equal(ranks.flatten().argsort(), logits.flatten().argsort())
