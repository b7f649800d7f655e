import pytest
import torch
from torch import nn

import expcam
from expcam.classifier.frozen import frozen
from expcam.classifier.precision import InBfloat16
from expcam.explain import backgrounds as bg
from expcam.explain.checks import ROUNDING, Check, leads
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.problem import pose
from tests.helpers import red_square


def test_the_lead_over_the_best_other_class() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0], [4.0, 1.0, 3.5]])
    assert leads(logits, 1).tolist() == [2.0, -3.0]


@pytest.mark.parametrize(
    ("objective", "pixels", "margin"),
    [
        # With n of the 64 red pixels, `red` leads `nothing` by n / 8 - 2.
        ("sufficient", 40, 3 - ROUNDING),
        ("sufficient", 8, -1 - ROUNDING),
        # The other 64 - n pixels must not be enough.
        ("necessary", 40, -1 - ROUNDING),
        ("necessary", 60, 1.5 - ROUNDING),
    ],
)
def test_margins_by_hand(
    detector: expcam.Classifier, objective: str, pixels: int, margin: float
) -> None:
    mask = torch.zeros(32 * 32, dtype=torch.bool)
    mask[(red_square()[0] > 0).flatten().nonzero()[:pixels]] = True
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES[objective], bg.training_rng(0))
        before = problem.passes.forward
        margins = check.margins(mask.view(1, 32, 32), above=-torch.inf)
    assert problem.passes.forward == before + 1
    assert float(margins) == pytest.approx(margin, abs=1e-5)


def test_more_is_demanded_on_noise_alone(detector: expcam.Classifier) -> None:
    red = (red_square()[0] > 0)[None]
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        margins = {}
        for objective in ("sufficient", "robust"):
            check = Check(problem, OBJECTIVES[objective], bg.training_rng(0))
            for demanded in (0.0, 100.0, 101.0):
                check.demanded = demanded
                margins[objective, demanded] = float(check.margins(red, above=-torch.inf))
    assert margins["sufficient", 100.0] == margins["sufficient", 0.0]
    assert margins["robust", 100.0] < margins["robust", 0.0]
    assert margins["robust", 101.0] == pytest.approx(margins["robust", 100.0] - 1)


@pytest.mark.parametrize(
    ("objective", "before", "after"), [("robust", 12, 24), ("necessary", 1, 1)]
)
def test_confirmation_takes_further_draws(
    detector: expcam.Classifier, objective: str, before: int, after: int
) -> None:
    red = (red_square()[0] > 0)[None]
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES[objective], bg.training_rng(0))
        for expected in (before, after):
            spent = problem.passes.forward
            check.margins(red, above=-torch.inf)
            assert problem.passes.forward - spent == expected
            check = check.widened()


def test_a_smaller_mask_may_lead_by_no_less_where_that_is_less_than_demanded(
    detector: expcam.Classifier,
) -> None:
    red = (red_square()[0] > 0).flatten().nonzero()
    most = torch.zeros(1, 32 * 32, dtype=torch.bool)
    most[0, red] = True
    fewer = most.clone()
    fewer[0, red[:4]] = False
    most, fewer = most.view(1, 32, 32), fewer.view(1, 32, 32)
    with frozen(detector.module):
        check = Check(pose(detector, red_square(), None), OBJECTIVES["robust"], bg.training_rng(0))
        least = float(check.margins(fewer, above=-torch.inf))
        assert least > 0.1
        for demanded, holds in [(least / 2, True), (100.0, False)]:
            check.demanded = demanded
            sparing = check.sparing(most[0], demanded)
            assert float(sparing.margins(most)) > 0
            assert (float(sparing.margins(fewer)) > 0) == holds
        assert float(check.margins(most)) < 0


def test_what_a_mask_does_on_fewer_views_takes_no_further_pass(detector: expcam.Classifier) -> None:
    red = red_square()[0] > 0
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        few = Check(problem, OBJECTIVES["robust"], bg.training_rng(0))
        expected = float(few.margins(red[None], above=-torch.inf))
        wide = few.widened().sparing(red, 0.0)
        spent = problem.passes.forward
        among = wide.among(few)
        assert among.margin == pytest.approx(expected, abs=1e-5)
        assert among.margin >= wide.margin
        assert problem.passes.forward == spent
        among.margins(red[None], above=-torch.inf)
        assert problem.passes.forward == spent + 12


def test_views_are_looked_at_until_one_says_that_a_mask_is_no_better(
    detector: expcam.Classifier,
) -> None:
    red = (red_square()[0] > 0)[None]
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["robust"], bg.training_rng(0))
        for above, passes in ((100.0, 1), (-100.0, 12)):
            before = problem.passes.forward
            check.margins(red, above=above)
            assert problem.passes.forward == before + passes


def test_checks_in_bfloat16_count_as_checks(detector: expcam.Classifier) -> None:
    red = (red_square()[0] > 0)[None]
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["sufficient"], bg.training_rng(0))
        full = float(check.margins(red))
        check.fast = InBfloat16(detector.module)
        assert float(check.margins(red)) == pytest.approx(full, rel=0.02)
        assert problem.passes.forward == 1 + 2


def test_what_is_exact_is_fast_in_the_screen_alone_and_not_near_the_boundary(
    detector: expcam.Classifier,
) -> None:
    class Fast(nn.Module):
        """Wrong by so many logits."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = detector.module(x)
            return logits + torch.tensor([0.0, error, 0.0])[: logits.shape[1]]

    square = (red_square()[0] > 0).flatten().nonzero()[:, 0]
    masks = torch.zeros(3, 32 * 32, dtype=torch.bool)
    for mask, pixels in zip(masks, (8, 17, 40), strict=True):
        mask[square[:pixels]] = True
    masks = masks.view(3, 32, 32)
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["sufficient"], bg.training_rng(0))
        own = check.margins(masks, above=-torch.inf)
        assert own.tolist() == pytest.approx([-1.01, 0.115, 2.99], abs=1e-5)
        error = 0.01
        check.fast = Fast()
        wrong = [-1.0, 0.125, 3.0]
        assert check.margins(masks, above=-torch.inf).tolist() == pytest.approx(wrong, abs=1e-5)
        check.exact = True
        assert check.margins(masks, above=-torch.inf).tolist() == own.tolist()
        before = problem.passes.forward
        # Its own classifier is asked about the second once more.
        screened = check.screen(masks).tolist()
        assert screened == pytest.approx([-1.0, 0.115, 3.0], abs=1e-5)
        assert problem.passes.forward == before + 4


def test_a_draw_on_which_a_mask_failed_is_the_counterexample(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Grey, but blue in the fourth draw, beside which no red square is called red."""
        drawn.append(torch.zeros_like(x))
        if len(drawn) == 4:
            drawn[-1][2] = 1
        return drawn[-1]

    drawn: list[torch.Tensor] = []
    monkeypatch.setitem(bg.BACKGROUNDS, "normal", noise)
    red, nothing = (red_square()[0] > 0)[None], torch.zeros(1, 32, 32, dtype=torch.bool)
    with frozen(detector.module):
        check = Check(pose(detector, red_square(), None), OBJECTIVES["robust"], bg.training_rng(0))
        for above in (0.0, -torch.inf):
            assert float(check.margins(red, above=above)) < 0
            assert check.counterexample is drawn[3]
        drawn[3].zero_()
        assert float(check.margins(red)) > 0
        assert check.counterexample is None
        check = Check(
            pose(detector, red_square(), None), OBJECTIVES["sufficient"], bg.training_rng(0)
        )
        assert float(check.margins(nothing)) < 0
        assert check.counterexample is None


def test_a_mask_that_fails_early_is_not_tried_further(detector: expcam.Classifier) -> None:
    nothing = torch.zeros(5, 32, 32, dtype=torch.bool)
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["robust"], bg.training_rng(0))
        before = problem.passes.forward
        assert (check.margins(nothing) < 0).all()
        assert problem.passes.forward == before + 5
        check.margins(~nothing)
        assert problem.passes.forward == before + 5 + 5 * len(OBJECTIVES["robust"].checks)


def test_both_asks_for_keeping_and_losing(detector: expcam.Classifier) -> None:
    everything = torch.ones(32, 32, dtype=torch.bool)
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["both"], bg.training_rng(0))
        assert check.share(everything) == 1
        # Of the 64 red pixels 60 keep the label by 5.5 and leave 4, too few; 40 leave 24, enough.
        red = (red_square()[0] > 0).flatten().nonzero()
        most, some = torch.zeros(2, 32 * 32, dtype=torch.bool)
        most[red[:60]] = some[red[:40]] = True
        views = len(OBJECTIVES["both"].checks) + 1
        only_keeping = Check(problem, OBJECTIVES["robust"], bg.training_rng(0))
        held = only_keeping.share(some.view(32, 32)) * (views - 1)
        assert check.share(some.view(32, 32)) * views == pytest.approx(held)
        held = only_keeping.share(most.view(32, 32)) * (views - 1)
        assert check.share(most.view(32, 32)) * views == pytest.approx(held + 1)
