import pytest
import torch

import expcam
from expcam.explain.objectives import REMOVAL
from expcam.explain.pixels import Pixels, components, level_set
from expcam.search.model import Seen
from tests.helpers import red_square

RED = 1


@pytest.fixture
def pixels(detector: expcam.Classifier) -> Pixels:
    return Pixels(detector, red_square(), RED, torch.ones(32, 32, dtype=torch.bool))


def test_components_touch_at_corners() -> None:
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    found = components(mask)
    assert [int(each.sum()) for each in found] == [2, 2, 2]
    assert torch.equal(found.any(0), mask)
    assert len(components(torch.zeros(4, 4, dtype=torch.bool))) == 0


def test_composites(pixels: Pixels) -> None:
    rng = torch.Generator().manual_seed(0)
    noise, removal = pixels.perturbation("normal", rng), pixels.perturbation(REMOVAL, rng)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:16] = True
    shown = pixels.perturbed(mask, noise)
    assert torch.equal(shown[:, :16], red_square()[:, :16])
    assert torch.equal(shown[:, 16:], noise.value[:, 16:])
    assert pixels.perturbed(mask, removal)[:, :16].eq(0).all()
    # Hard masks and probabilities of 0 and 1 give the same.
    for by in (noise, removal):
        soft = pixels.perturbed(mask.float(), by)
        assert torch.allclose(pixels.perturbed(mask, by), soft)


def test_kinds_of_perturbations(pixels: Pixels) -> None:
    rng = torch.Generator().manual_seed(0)
    found = {kind: pixels.perturbation(kind, rng) for kind in ("zero", "blur", "normal", REMOVAL)}
    assert {kind: each.random for kind, each in found.items()} == {
        "zero": False, "blur": False, "normal": True, REMOVAL: False,
    }  # fmt: skip
    assert [kind for kind, each in found.items() if each.removal] == [REMOVAL]
    opposite = pixels.opposite(found["normal"])
    assert torch.equal(opposite.value, -found["normal"].value)


def test_the_margin_over_the_best_other_class(pixels: Pixels) -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0], [4.0, 1.0, 3.5]])
    zero = pixels.perturbation("zero", torch.Generator())
    seen = [Seen(row, {}) for row in logits]
    assert pixels.margins(seen, [zero, zero]).tolist() == [2.0, -3.0]


def test_cells_are_the_blocks_that_a_mask_touches_and_its_components(pixels: Pixels) -> None:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[3:5, 3:5] = True  # in four blocks of 4×4
    mask[20, 20] = True  # in one, which is its component as well
    cells = pixels.cells(mask, 4)
    assert sorted(int(each.sum()) for each in cells) == [1, 1, 1, 1, 1, 4]
    # Blocks as large as the image leave its components, and all of the mask.
    assert sorted(int(each.sum()) for each in pixels.cells(mask, pixels.cell_sizes[0])) == [1, 4, 5]


def test_a_level_set_has_its_area() -> None:
    attribution = torch.arange(100.0).view(10, 10)
    mask = level_set(attribution, 0.07)
    assert mask.sum() == 7
    assert mask[9, 3:].all()
    assert level_set(attribution, 0.0001).sum() == 1
