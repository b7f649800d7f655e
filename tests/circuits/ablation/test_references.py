"""By hand on the micro network of `conftest`."""

import pytest
import torch

import expcam
from expcam.circuits.ablation.gates import Gates
from expcam.circuits.ablation.inputs import Subject
from expcam.circuits.ablation.references import KINDS, References, kinds_of
from expcam.errors import OptionError
from tests.circuits.blocks import COLOURS

X = COLOURS[0]

OTHERS = torch.tensor([[0.5, 0.0, 1.0], [1.5, 0.0, 3.0]])[:, :, None, None].expand(2, 3, 2, 2)


def pool(micro: expcam.Classifier, kind: str, photos: torch.Tensor = OTHERS) -> list[float]:
    made = References(Gates(micro.module, X), photos, draws=4)
    rng = torch.Generator().manual_seed(0)
    subject = Subject(X, torch.ones(2, 2, dtype=torch.bool))
    return [float(each["conv1"].flatten()[0]) for each in made.pool(kind, [subject], rng)]


def test_each_kind_by_hand(micro: expcam.Classifier) -> None:
    # conv1's first channel is relu(2 red): see test_verification.
    assert pool(micro, "zero") == [0]
    assert pool(micro, "grey") == [0]
    assert pool(micro, "shuffled") == pytest.approx([2] * 4)  # all pixels are alike
    assert set(pool(micro, "photos")) <= {1.0, 3.0}  # half of two is one of them
    assert set(pool(micro, "resample")) == {1.0, 3.0}


def test_photographs_are_needed_where_they_are_the_reference(micro: expcam.Classifier) -> None:
    with pytest.raises(OptionError, match="`photos` needs photographs, and none were given"):
        pool(micro, "photos", OTHERS[:0])
    with pytest.raises(OptionError, match="draws one of several photographs, and one photograph"):
        pool(micro, "resample", OTHERS[:1])
    with pytest.raises(OptionError, match=f"unknown reference `mean`; there are: {KINDS[0]}"):
        pool(micro, "mean")


def test_photographs_are_a_reference_where_there_are_any() -> None:
    assert kinds_of(OTHERS[:0]) == ["rest"]
    assert kinds_of(OTHERS) == ["rest", "photos"]
