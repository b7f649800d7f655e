import pytest
import torch

from expcam.search.checks import ROUNDING, Check
from tests.search.panel import Panel, PanelModel

PANEL = Panel((4.0, 3.0, 2.0, 1.0), 5.0)


def check(*kinds: str) -> Check:
    rng = torch.Generator().manual_seed(0)
    return Check(PANEL, PanelModel(PANEL), [PANEL.perturbation(kind, rng) for kind in kinds])


def choice(*kept: int) -> torch.Tensor:
    keep = torch.zeros(4, dtype=torch.bool)
    keep[list(kept)] = True
    return keep


def test_margins_by_hand() -> None:
    found = check("zero", "removal").margins(torch.stack([choice(0, 1), choice(3)]))
    # 4 + 3 - 5 and, of what is left, 5 - (2 + 1); 1 - 5, and 5 - 9 where it should be lost.
    assert found.tolist() == [[2.0, 2.0], [-4.0, -4.0]]


def test_a_draw_replaces_what_is_left_out_only() -> None:
    tried = check("noise")
    noise = tried.perturbations[0].value
    expected = 4.0 + 3.0 + float(2 * noise[2] + noise[3]) - 5.0
    assert float(tried.margins(choice(0, 1)[None])) == pytest.approx(expected)


def test_more_is_demanded_where_it_is_random() -> None:
    needed = check("zero", "noise", "removal").needed(0.5)
    assert needed.tolist() == pytest.approx([ROUNDING, 0.5, ROUNDING])


def test_a_tie_is_no_margin() -> None:
    tied = Panel((5.0, 1.0), 5.0)
    one = Check(tied, PanelModel(tied), [tied.perturbation("zero", torch.Generator())])
    assert not one.holds(torch.tensor([True, False]), one.needed(0.0))


def test_what_refuted_the_last_choice_is_tried_first() -> None:
    tried = check("zero", "removal", "zero", "zero")
    needed = tried.needed(0.0)
    # 4 + 2 - 5 is enough, and without them 3 + 1 are too few; 4 + 3 + 2 + 1 without all is 0.
    assert tried.holds(choice(0, 2), needed)
    assert tried.runs == 4
    assert not tried.holds(choice(0), needed)
    before = tried.runs
    assert not tried.holds(choice(0), needed)
    assert tried.runs == before + 1


def test_the_spread_is_that_of_the_kind_drawn_most_often() -> None:
    tried = check("zero", "noise", "noise", "noise")
    margins = torch.tensor([9.0, 1.0, 2.0, 3.0])
    assert tried.spread(margins) == pytest.approx(1.0)
    assert check("zero", "removal").spread(margins[:2]) == 0.0
