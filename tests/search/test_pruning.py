import math

import torch

from expcam.search.checks import Check
from expcam.search.pruning import prune
from tests.search.panel import Panel, PanelModel

PANEL = Panel((6.0, 5.0, 4.0, 3.0, 2.0, 1.0), 10.0)


def check() -> Check:
    rng = torch.Generator()
    return Check(PANEL, PanelModel(PANEL), [PANEL.perturbation("zero", rng)])


def test_what_is_left_cannot_be_spared() -> None:
    tried = check()
    needed = tried.needed(0.0)
    pruned = prune(torch.ones(6, dtype=torch.bool), tried, needed)
    assert pruned.size == 1
    assert tried.holds(pruned.keep, needed)
    for place in pruned.keep.nonzero().flatten():
        fewer = pruned.keep.clone()
        fewer[place] = False
        assert not tried.holds(fewer, needed)


def test_cells_of_a_size_go_together() -> None:
    # Of pairs, 3 + 2 and 2 + 1 can go at once; of single parts nothing can after that.
    pruned = prune(torch.ones(6, dtype=torch.bool), check(), check().needed(0.0))
    assert pruned.keep.tolist() == [True, True, False, False, False, False]


def test_a_part_that_is_needed_alone_stays() -> None:
    needed = check().needed(0.0)
    keep = torch.tensor([True, True, False, False, False, False])
    pruned = prune(keep, check(), needed)
    assert torch.equal(pruned.keep, keep)


def test_nothing_is_tried_beyond_the_runs_that_are_allowed() -> None:
    tried = check()
    needed = tried.needed(0.0)
    everything = torch.ones(6, dtype=torch.bool)
    unpruned = prune(everything, tried, needed, most_runs=2)
    assert tried.runs <= 3
    assert unpruned.size == 0
    tried = check()
    whole = prune(everything, check(), needed, math.inf)
    for most in range(1, 20):
        tried = check()
        part = prune(everything, tried, needed, most)
        assert tried.runs <= most + 1
        assert tried.holds(part.keep, needed)
        assert part.size in (0, 2, 1)
        # Where a size was broken off, what the one before left is minimal at that size.
        assert part.keep[whole.keep].all()
