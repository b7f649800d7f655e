import subprocess
import sys

import numpy as np
import pytest

from expcam.errors import OptionError
from expcam.explain.generators import GENERATORS
from expcam.explain.request import RECIPES, SEEDS, Request, for_each


def test_what_can_be_asked_for_without_a_word_is_the_default() -> None:
    request = Request()
    assert (request.objective, request.recipe, request.seed) == ("robust", "constrained", 0)
    assert request.target is request.contrast is request.area is None


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"recipe": "magic"}, "unknown recipe `magic`; there are: constrained, free, paper"),
        ({"objective": "best"}, "unknown objective `best`; there are: robust, sufficient"),
        ({"area": 0.0}, "area 0.0 is out of range"),
        ({"area": float("nan")}, "area nan is out of range"),
        ({"seed": -1}, f"seed -1 is out of range: from 0 to {SEEDS - 1}"),
        ({"seed": SEEDS}, "is out of range"),
        ({"recipe": "paper", "objective": "both"}, "has its own objective"),
    ],
)
def test_what_no_search_can_do(asked: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Request(**asked)  # type: ignore[arg-type]


def test_every_recipe_has_a_generator() -> None:
    assert set(RECIPES.values()) <= set(GENERATORS)


def test_it_is_known_without_torch() -> None:
    code = "import sys, expcam.explain.request; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_class_for_each_image_or_one_for_all() -> None:
    assert for_each("target", None, 2) == [None, None]
    assert for_each("target", "red", 2) == ["red", "red"]
    assert for_each("target", np.array(3), 2) == [3, 3]
    assert for_each("target", np.array([1, 2]), 2) == [1, 2]
    assert for_each("target", (each for each in ("red", None)), 2) == ["red", None]
    with pytest.raises(OptionError, match="target names 1 classes for 2 images"):
        for_each("target", ["red"], 2)
