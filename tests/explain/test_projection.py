import torch
from hypothesis import given
from hypothesis import strategies as st

from expcam.explain.projection import project


@given(st.integers(0, 1000), st.floats(0.001, 1), st.floats(0.01, 1))
def test_the_projection_has_just_the_area_asked_for(seed: int, area: float, width: float) -> None:
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    allowed = torch.ones_like(logits, dtype=torch.bool)
    p = project(logits, allowed, area, width)
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
