import expcam
from expcam.explain.backgrounds import evaluation_backgrounds
from expcam.explain.compare.level_sets import smallest_level
from tests.helpers import red_square

RED, BLUE = 1, 2


def test_the_smallest_level_is_the_first_that_holds(detector: expcam.Classifier) -> None:
    x = red_square()
    grey = evaluation_backgrounds(x, 0)[:1]
    level = smallest_level(detector, x, x[0], grey, RED)
    # 16 pixels give a logit of 2, a tie that argmax gives to `nothing`; 2 % is the first level
    # with more of them.
    assert level.area == 0.02
    assert level.holds
    nowhere = smallest_level(detector, x, x[0], grey, BLUE)
    assert nowhere.area == 1.0
    assert not nowhere.holds
