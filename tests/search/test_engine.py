import pytest
import torch

from expcam.progress import silent
from expcam.search.engine import FORWARD, Found, search
from expcam.search.parts import Perturbation
from expcam.search.settings import Settings
from tests.search.panel import Panel, PanelModel, problem

WEIGHTS = (6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.5, 0.2, 0.1)


def found(panel: Panel, *kinds: str, share: float | None = None, seed: int = 0) -> Found:
    """The end of one search."""
    (end,) = search(
        [problem(panel, kinds, share=share, seed=seed)], PanelModel(panel), Settings(), silent
    )
    return end


def test_the_smallest_set_by_hand() -> None:
    # 6 + 5 = 11 exceeds 10, and no single weight does; at first the scores are upside down.
    end = found(Panel(WEIGHTS, 10), "zero")
    assert end.keep.nonzero().flatten().tolist() == [0, 1]
    assert end.size == 1
    assert torch.equal(end.scores > 0.5, end.keep)


def test_as_many_parts_as_it_takes() -> None:
    # Without the three smallest 21.5 of 22.3 are left, without one of the others less than 21.4.
    end = found(Panel(WEIGHTS, 21.4), "zero")
    assert (
        end.keep.tolist() == [True] * 7 + [False] * 3
        or float((torch.tensor(WEIGHTS) * end.keep).sum()) > 21.4
    )


def test_what_must_be_lost_without_it() -> None:
    # Of 22.3 in all less than 12 must be left: 6 and 5 are just enough.
    end = found(Panel(WEIGHTS, 12), "removal")
    assert end.keep.nonzero().flatten().tolist() == [0, 1]


def test_noise_asks_for_a_margin_that_holds_on_draws_never_seen() -> None:
    panel = Panel(WEIGHTS, 10)
    grey, robust = found(panel, "zero"), found(panel, "noise", "zero")
    rng = torch.Generator().manual_seed(99)
    held = {}
    for name, end in {"grey": grey, "robust": robust}.items():
        draws = [panel.perturbation("noise", rng) for _ in range(200)]
        seen = PanelModel(panel).outputs([panel.perturbed(end.keep, by) for by in draws])
        held[name] = float((panel.margins(seen, draws) > 0).float().mean())
    assert held["robust"] > 0.9 > held["grey"]
    assert robust.keep.sum() > grey.keep.sum()


def test_a_share_that_is_asked_for_gives_the_best_parts_of_that_number() -> None:
    end = found(Panel(WEIGHTS, 13), "zero", share=0.3)
    assert end.keep.nonzero().flatten().tolist() == [0, 1, 2]
    assert end.size == 0


def test_only_parts_that_are_allowed() -> None:
    panel = Panel(WEIGHTS, 7)
    panel.allowed[0] = False
    end = found(panel, "zero")
    assert not end.keep[0]
    assert float((panel.weights * end.keep).sum()) > 7


def test_where_nothing_holds_all_parts_are_the_answer() -> None:
    assert found(Panel(WEIGHTS, 100), "zero").keep.all()


def test_two_searches_together_find_what_each_finds_alone() -> None:
    panel = Panel(WEIGHTS, 10)
    kinds = ("noise", "zero")
    together = search(
        [problem(panel, kinds, seed=seed) for seed in (1, 2)],
        PanelModel(panel),
        Settings(),
        silent,
    )
    for seed, end in zip((1, 2), together, strict=True):
        alone = found(panel, *kinds, seed=seed)
        assert torch.equal(end.keep, alone.keep)
        assert end.passes == alone.passes


@pytest.mark.parametrize("kinds", [("zero",), ("noise", "zero"), ("noise", "zero", "removal")])
def test_every_run_is_counted(kinds: tuple[str, ...]) -> None:
    panel = Panel(WEIGHTS, 10)
    model = PanelModel(panel)
    (end,) = search([problem(panel, kinds)], model, Settings(), silent)
    assert end.passes == pytest.approx(model.steps + FORWARD * model.checks)
    assert model.steps <= Settings().views


def test_gradients_are_smoothed_beside_noise_and_nowhere_else() -> None:
    panel = Panel(WEIGHTS, 10)
    for kinds, smoothed in ((("zero",), {False}), (("noise", "zero"), {True, False})):
        model = PanelModel(panel)
        search([problem(panel, kinds)], model, Settings(), silent)
        assert set(model.smoothed) == smoothed
        for smooth, whole in zip(model.smoothed, model.whole, strict=True):
            assert smooth is not whole


def test_every_kind_is_looked_at_and_the_hardest_most() -> None:
    seen: dict[str, int] = {}

    class Watched(Panel):
        def loss(self, keep: torch.Tensor, logits: torch.Tensor, by: Perturbation) -> torch.Tensor:
            seen[by.kind] = seen.get(by.kind, 0) + 1
            return super().loss(keep, logits, by)

    # What is out of the ordinary in a draw must be made up for; zeros have nothing of it.
    panel = Watched(WEIGHTS, 10)
    search([problem(panel, ("zero", "noise"))], PanelModel(panel), Settings(), silent)
    assert seen["noise"] > 2 * seen["zero"] > Settings().views // 10


def test_progress_goes_to_its_end() -> None:
    panel = Panel(WEIGHTS, 10)
    stages: dict[str, list[tuple[int, int]]] = {}
    search(
        [problem(panel), problem(panel)],
        PanelModel(panel),
        Settings(),
        lambda stage, *done: stages.setdefault(stage, []).append(done),
    )
    assert list(stages) == ["mask", "pruning"]
    for seen in stages.values():
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1]
