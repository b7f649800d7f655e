"""What a circuit is tried on shows the class, or does not, to the whole model."""

import pytest
import torch

from expcam.circuits.ablation.inputs import (
    LEAST_CROP,
    Subject,
    contrast_inputs,
    perturbed_inputs,
    shuffled,
)
from expcam.errors import OptionError
from tests.helpers import red_square


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked() -> Subject:
    x = red_square()
    return Subject(x, x[0] > 0)


def is_red(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0].flatten(1).mean(1) > 0.05


def test_shuffling_moves_patches_and_changes_none() -> None:
    x = torch.arange(3 * 32 * 32.0).view(3, 32, 32)
    mixed = shuffled(x, rng())
    assert not torch.equal(mixed, x)
    assert torch.equal(mixed.flatten().sort().values, x.flatten().sort().values)
    patch = mixed[:, :4, :4]
    row, column = divmod(int(patch[0, 0, 0]), 32)
    assert torch.equal(patch, x[:, row : row + 4, column : column + 4])


def test_what_does_not_fill_a_patch_stays() -> None:
    x = torch.rand(3, 35, 32)
    assert torch.equal(shuffled(x, rng())[:, 32:], x[:, 32:])


def test_an_explanations_composites_keep_the_masks_pixels() -> None:
    subject = masked()
    for x in perturbed_inputs([subject], is_red, 4, rng()):
        assert torch.equal(x[:, subject.mask], subject.x[:, subject.mask])
        assert bool(is_red(x[None]))


def test_without_the_evidence_the_rest_stays() -> None:
    subject = masked()
    x = subject.without(rng())
    assert torch.equal(x[:, ~subject.mask], subject.x[:, ~subject.mask])
    assert not torch.equal(x[:, subject.mask], subject.x[:, subject.mask])


def test_crops_show_most_of_the_image() -> None:
    x = torch.zeros(3, 32, 32)
    x[:, 16, 16] = 100  # in the middle: no crop of three quarters leaves it out
    for seed in range(20):
        crop = Subject(x, None).perturbed(rng(seed))
        assert crop.shape == x.shape
        assert float(crop.amax()) > 100 * LEAST_CROP**2 / 2


def test_no_more_inputs_are_looked_at_than_it_takes() -> None:
    asked: list[int] = []

    def second(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return torch.arange(len(x)) % 2 == 1

    assert len(perturbed_inputs([masked()], second, 4, rng())) == 4
    assert asked == [4, 4]
    asked.clear()
    assert len(contrast_inputs([masked()], [], second, 4, rng())) == 4
    assert asked == [4, 4]  # of 16


def test_a_label_that_does_not_hold_is_no_decision() -> None:
    with pytest.raises(OptionError, match="holds its label on 0 of 8 composites of the mask only"):
        perturbed_inputs([masked()], lambda x: torch.zeros(len(x), dtype=torch.bool), 4, rng())
    nothing = Subject(torch.zeros(3, 32, 32), None)
    with pytest.raises(OptionError, match="crops of the image"):
        perturbed_inputs([nothing], is_red, 4, rng())


def test_contrast_inputs_are_those_that_the_model_does_not_take_for_the_class() -> None:
    red = torch.zeros(3, 32, 32)
    red[0] = 2
    blue = red.flip(0)
    found = contrast_inputs([masked()], [red, blue], is_red, 6, rng())
    assert len(found) == 6
    assert not bool(is_red(torch.stack(found)).any())
    assert any(torch.equal(x, blue) for x in found)
    with pytest.raises(OptionError, match="says the class on 24 of 24 inputs without the evidence"):
        contrast_inputs([masked()], [], lambda x: torch.ones(len(x), dtype=torch.bool), 6, rng())
