import math

import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain import backgrounds as bg
from expcam.explain.checks import ROUNDING, Check
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.pieces import pieces
from expcam.explain.problem import pose
from expcam.explain.pruning import prune
from tests.helpers import red_square


def test_a_piece_that_can_be_spared_goes_before_a_block(detector: expcam.Classifier) -> None:
    # 17 of the 23 red pixels are needed. Of the first blocks, of 4×4 pixels, one holds 3 of them
    # and would go before the piece of 4, which then could not.
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:8, 16:20] = mask[4, 20:23] = True
    mask[9:11, 17:19] = True
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["sufficient"], bg.training_rng(0))
        pruned = prune(mask, check)
    assert len(pieces(mask)) == 2
    assert len(pieces(pruned.mask)) == 1
    assert int(pruned.mask.sum()) == 17


def test_a_mask_in_one_piece_shows_the_classifier_no_empty_batch(
    detector: expcam.Classifier,
) -> None:
    # Many a classifier fails on one, as `x.view(len(x), -1)` does.
    shown: list[int] = []
    with frozen(detector.module) as module:
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["sufficient"], bg.training_rng(0))
        handle = module.register_forward_hook(lambda _m, inputs, _o: shown.append(len(inputs[0])))
        prune(red_square()[0] > 0, check)
        handle.remove()
    assert min(shown) > 0


def test_what_is_left_cannot_be_spared(detector: expcam.Classifier) -> None:
    # 32 of the 64 red pixels are enough on the mean colour; the lone piece is not red at all.
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[2:14, 14:26] = True
    mask[28:31, 2:5] = True
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["sufficient"], bg.training_rng(0))
        assert check.holds(mask)
        pruned = prune(mask, check)
        assert check.holds(pruned.mask)
        assert pruned.cell == 1
        for row, column in pruned.mask.nonzero():
            without = pruned.mask.clone()
            without[row, column] = False
            assert not check.holds(without)
    red = red_square()[0] > 0
    assert (pruned.mask & ~red).sum() == 0
    # n pixels of red 2 among 1,024 lead by 64 * 2 n / 1024 - 2 logits.
    assert int(pruned.mask.sum()) == math.floor(8 * (2 + ROUNDING)) + 1


def test_minimal_for_several_views_too(detector: expcam.Classifier) -> None:
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["both"], bg.training_rng(0))
        pruned = prune(torch.ones(32, 32, dtype=torch.bool), check)
        assert check.holds(pruned.mask)
        for row, column in set(map(tuple, (pruned.mask.nonzero() // pruned.cell).tolist())):
            rows = slice(row * pruned.cell, (row + 1) * pruned.cell)
            columns = slice(column * pruned.cell, (column + 1) * pruned.cell)
            without = pruned.mask.clone()
            without[rows, columns] = False
            assert not check.holds(without)


def test_the_count_is_what_the_classifier_was_shown(detector: expcam.Classifier) -> None:
    shown: list[int] = []
    with frozen(detector.module) as module:
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["both"], bg.training_rng(0))
        before = problem.passes.forward
        handle = module.register_forward_hook(lambda _m, inputs, _o: shown.append(len(inputs[0])))
        prune(red_square()[0] > 0, check)
        handle.remove()
    assert sum(shown) == problem.passes.forward - before


def test_no_further_round_beyond_the_passes_allowed(detector: expcam.Classifier) -> None:
    def spare(mask: torch.Tensor, cell: int, check: Check) -> int:
        blocks = torch.arange(32)[:, None] // cell * 32 + torch.arange(32) // cell
        parts = [*pieces(mask), *(blocks == each for each in blocks[mask].unique())]
        rest = [mask & ~part for part in parts if (mask & ~part).any()]
        return sum(check.holds(each) for each in rest)

    def pruned(most_passes: float) -> tuple[int, int, float]:
        with frozen(detector.module):
            problem = pose(detector, red_square(), None)
            check = Check(problem, OBJECTIVES["robust"], bg.training_rng(0))
            found = prune(torch.ones(32, 32, dtype=torch.bool), check, most_passes)
            cost = problem.passes.cost
            assert check.holds(found.mask)
            assert not found.cell or spare(found.mask, found.cell, check) == 0
        return found.cell, int(found.mask.sum()), cost

    free, capped, none = pruned(math.inf), pruned(30), pruned(0)
    assert free[0] == 2
    assert {pruned(most)[0] for most in range(10, 100, 5)} == {0, 2, 4}
    assert none[:2] == (0, 32 * 32)
    assert free[1] < capped[1] < none[1]
    assert none[2] < capped[2] < free[2]
