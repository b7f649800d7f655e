from pathlib import Path

import numpy as np
import pytest
import torch

import expcam
from expcam.errors import OptionError
from expcam.explain.instances import nearest, summits
from tests.helpers import red_square


def two_squares() -> torch.Tensor:
    """Two red squares, far apart."""
    x = red_square()
    x[0, 20:28, 4:12] = 2
    return x


def test_summits_by_hand() -> None:
    # 9 and 6 with a pass of 2 between them; 5 hangs on 6 by a pass of 4.
    heights = np.array([[9.0, 2.0, 6.0, 4.0, 5.0]])
    assert summits(heights, 0.1) == [(0, 0), (0, 2), (0, 4)]  # prominences 9, 4 and 1
    assert summits(heights, 0.4) == [(0, 0), (0, 2)]
    assert summits(heights, 0.5) == [(0, 0)]
    assert summits(np.ones((3, 3)), 0.1) == [(0, 0)]


def test_cells_that_touch_at_a_corner_are_neighbours() -> None:
    ridge = np.array([[5.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 5.0]])
    assert summits(ridge, 0.15) == [(0, 0), (2, 2)]  # the pass between them is the 4
    assert summits(ridge, 0.25) == [(0, 0)]


def test_each_pixel_belongs_to_the_nearest_point() -> None:
    left, right = nearest([(2.0, 1.0), (2.0, 5.0)], (4, 6))
    assert torch.equal(left, ~right)
    assert left[:, :3].all()
    assert not left[:, 3:].any()


def test_each_object_is_explained_by_itself(detector: expcam.Classifier) -> None:
    found = expcam.explain_instances(detector, two_squares())
    assert len(found) == 2
    assert all(each.kept for each in found)
    assert np.stack([each.mask for each in found]).sum(0).max() == 1
    where = [bool(each.mask[:16, 16:].any()) for each in found]
    assert sorted(where) == [False, True]
    # A blue square is no object of the class.
    x = red_square()
    x[2, 20:28, 4:12] = 1
    assert len(expcam.explain_instances(detector, x)) == 1


def test_a_single_object_has_the_usual_explanation(detector: expcam.Classifier) -> None:
    (only,) = expcam.explain_instances(detector, red_square())
    alone = expcam.explain_image(detector, red_square())
    assert np.array_equal(only.mask, alone.mask)


def test_boxes_and_points_say_which_objects_are_meant(detector: expcam.Classifier) -> None:
    (lower,) = expcam.explain_instances(detector, two_squares(), boxes=[(2, 18, 14, 30)])
    assert lower.mask[20:28, 4:12].any()
    assert not lower.mask[:18].any()
    # What you say is there has an answer, also where the class is not.
    (nothing,) = expcam.explain_instances(detector, two_squares(), boxes=[(0, 0, 8, 3)])
    assert not nothing.kept
    assert not nothing.mask[3:].any()
    found = expcam.explain_instances(detector, two_squares(), points=[(20, 8), (8, 24)])
    assert len(found) == 2
    assert found[0].mask[4:12, 16:24].any()
    assert found[1].mask[20:28, 4:12].any()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"most": 0}, "most 0"),
        ({"boxes": [(40, 40, 50, 50)]}, "holds no pixel of the image"),
        ({"points": [(5, 40)]}, "outside of the image of 32 × 32"),
        ({"points": [(5, 5)], "boxes": [(0, 0, 5, 5)]}, "not both"),
        ({"boxes": [(10, -60, 60, -10)]}, "holds no pixel of the image"),
        ({"boxes": [(float("nan"), 0, 9, 9)]}, "is not 4 numbers of pixels"),
        ({"points": [(5, 5), (5, 5)]}, r"no pixel is nearest to point \(5.0, 5.0\)"),
    ],
)
def test_what_cannot_be_asked(
    detector: expcam.Classifier, asked: dict[str, object], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        expcam.explain_instances(detector, red_square(), **asked)  # type: ignore[arg-type]


def test_an_alternative_keeps_the_label_with_other_pixels(detector: expcam.Classifier) -> None:
    x = red_square()
    x[0, 4:12, 8:24] = 2  # twice as wide as is needed
    explanation = expcam.explain_image(detector, x)
    (other,) = expcam.explain_alternatives(detector, explanation)
    assert other.kept
    assert not (other.mask & explanation.mask).any()
    # Of two objects the other one is no alternative.
    for each in expcam.explain_instances(detector, two_squares()):
        for other in expcam.explain_alternatives(detector, each):
            top = bool(each.mask[:16].any())
            assert not other.mask[16:].any() if top else not other.mask[:16].any()
    # Without all of the red there is none.
    whole = expcam.explain_image(detector, red_square(), objective="both")
    assert whole.necessary
    assert expcam.explain_alternatives(detector, whole) == []
    with pytest.raises(OptionError, match="most 0"):
        expcam.explain_alternatives(detector, explanation, most=0)


@pytest.mark.exhaustive
def test_a_dog_beside_a_cat_is_one(shared: Path) -> None:
    photo = shared / "data" / "photos" / "dog_and_cat.png"
    weights = shared / "models" / "resnet18.safetensors"
    resnet18 = expcam.load_classifier("resnet18", weights=weights, device="cpu")
    with pytest.warns(expcam.ExpcamWarning, match="nearly tied"):
        found = expcam.explain_instances(resnet18, photo, target="boxer")
    assert len(found) == 1
    rows, _ = np.nonzero(found[0].mask)
    assert rows.mean() < 112  # the dog's head is above the cat
