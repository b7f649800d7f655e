import torch

from expcam.search.checks import Check
from expcam.search.cuts import Cuts
from expcam.search.settings import Settings
from tests.search.panel import Panel, PanelModel

# Kept from the left, the margins are -4, 1, 5, 8, 10 and 11.
PANEL = Panel((6.0, 5.0, 4.0, 3.0, 2.0, 1.0), 10.0)
SCORES = torch.linspace(1, 0, 6)
UPSIDE_DOWN = SCORES.flip(0)


def check(*kinds: str) -> Check:
    rng = torch.Generator().manual_seed(0)
    return Check(PANEL, PanelModel(PANEL), [PANEL.perturbation(kind, rng) for kind in kinds])


def test_a_cut_keeps_the_best_scored_share() -> None:
    cut = Cuts(check("zero"), Settings()).add(SCORES, 0.5)
    assert cut.keep.tolist() == [True, True, True, False, False, False]
    assert cut.margins.tolist() == [5.0]


def test_candidates_are_those_that_pass_the_smallest_first() -> None:
    cuts = Cuts(check("zero"), Settings(factor=100.0))
    for share in (1.0, 1 / 6, 4 / 6, 3 / 6):
        cuts.add(SCORES, share)
    assert [int(cut.keep.sum()) for cut in cuts.candidates(SCORES)] == [3, 4, 6]


def test_the_last_scores_are_cut_at_smaller_shares_while_these_pass() -> None:
    cuts = Cuts(check("zero"), Settings(factor=1.5))
    cuts.add(SCORES, 4.5 / 6)
    # 3 parts and 2 are enough, and 1.3 are one part, which is not.
    found = [int(cut.keep.sum()) for cut in cuts.candidates(SCORES)]
    assert found[0] == 2
    assert found == sorted(found)


def test_where_none_passes_the_nearest_is_cut_at_larger_shares() -> None:
    cuts = Cuts(check("zero"), Settings(factor=1.5))
    cuts.add(UPSIDE_DOWN, 2 / 6)
    cuts.add(SCORES, 1 / 6)  # -4 is nearer than -7
    (found,) = cuts.candidates(UPSIDE_DOWN)
    assert found.keep.tolist() == [True, True, False, False, False, False]


def test_nothing_holds() -> None:
    hopeless = Panel((1.0, 1.0), 5.0)
    tried = Check(
        hopeless, PanelModel(hopeless), [hopeless.perturbation("zero", torch.Generator())]
    )
    cuts = Cuts(tried, Settings())
    cuts.add(torch.tensor([1.0, 0.0]), 0.5)
    assert cuts.candidates(torch.tensor([1.0, 0.0])) == []
    everything = cuts.confirmed([], tried)
    assert everything.keep.all()
    assert cuts.pruned(everything, tried, 100).size == 0


def test_what_fails_on_fresh_draws_gives_way_to_the_next() -> None:
    cuts = Cuts(check("zero"), Settings())
    for share in (2 / 6, 4 / 6):
        cuts.add(SCORES, share)
    further = check("zero", *["noise"] * 40)
    found = cuts.confirmed(cuts.candidates(SCORES), further)
    # Noise of standard deviation √(16 + 9 + 4 + 1) is too much for a margin of 1.
    assert int(found.keep.sum()) == 4
    assert len(found.margins) == 41
    assert bool((found.margins > 0).all())


def test_more_is_demanded_on_noise_by_the_spread_of_its_draws() -> None:
    cuts = Cuts(check("zero", *["noise"] * 30), Settings(demand=2.0))
    cut = cuts.add(SCORES, 0.5)
    assert cuts.demand == 2 * float(cut.margins[1:].std())
    spare = cuts.spare(cut)
    assert float(spare[0]) > 4.9  # nothing is demanded where nothing varies
    assert torch.allclose(spare[1:], cut.margins[1:] - cuts.demand)


def test_pruning_lowers_no_margin_that_falls_short_of_what_is_demanded() -> None:
    cuts = Cuts(check("zero", *["noise"] * 8), Settings(demand=1e6))
    cut = cuts.add(SCORES, 1.0)
    further = check("zero", *["noise"] * 8)
    confirmed = cuts.confirmed([cut], further)
    pruned = cuts.pruned(confirmed, further, 10_000)
    after = further.margins(pruned.keep[None])[0]
    assert bool((after >= confirmed.margins.minimum(further.needed(cuts.demand))).all())
