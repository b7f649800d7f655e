from expcam.explain.backgrounds import BACKGROUNDS, RANDOM
from expcam.explain.objectives import EVALUATION, MATCH, OBJECTIVES, REMOVAL


def test_all_that_is_named_exists() -> None:
    for objective in OBJECTIVES.values():
        for kind in (*objective.steps, *objective.checks, *objective.fresh):
            assert kind in (REMOVAL, MATCH) or kind in BACKGROUNDS
    assert set(EVALUATION) == set(BACKGROUNDS)


def test_what_is_checked_is_looked_at_in_the_steps_and_confirmed_on_draws() -> None:
    for objective in OBJECTIVES.values():
        assert set(objective.steps) == set(objective.checks)
        assert set(objective.fresh) == set(objective.checks) & RANDOM


def test_what_they_ask_for() -> None:
    asked = {name: (each.keeping, each.removal) for name, each in OBJECTIVES.items()}
    assert asked == {
        "robust": (True, False),
        "sufficient": (True, False),
        "necessary": (False, True),
        "both": (True, True),
        "matching": (True, False),
    }
    assert [name for name, each in OBJECTIVES.items() if each.matching] == ["matching"]
