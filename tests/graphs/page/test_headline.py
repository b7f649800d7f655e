import dataclasses

import pytest

from expcam.explain.match import UNKNOWN
from expcam.graphs.methods import method_rows
from expcam.graphs.page.headline import better, circuit_fact, facts, in_common, readout_fact
from expcam.graphs.page.trust import circuit_trials
from tests.graphs.made import made_check, made_circuit, made_explanation, made_table


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({}, ["50%", "8 of 8", "lost", "75%"]),
        ({"necessary": False, "robustness": 0.5}, ["50%", "4 of 8", "kept", "75%"]),
        ({"predicted": False, "area": 0.034}, ["3.4%", "8 of 8", "–", "75%"]),
    ],
)
def test_figures_of_a_mask(changes: dict[str, object], values: list[str]) -> None:
    found = facts(dataclasses.replace(made_explanation(), **changes))  # type: ignore[arg-type]
    assert [fact.value for fact in found] == values
    assert all(fact.meaning for fact in found)


def test_what_is_kept_of_the_computation_stands_beside_its_controls() -> None:
    meaning = facts(made_explanation())[-1].meaning
    assert meaning.endswith(
        "averaged over space); this mask elsewhere 45%, Grad-CAM's pixels of this area 60%"
    )
    unknown = facts(dataclasses.replace(made_explanation(), match=UNKNOWN))[-1]
    assert (unknown.value, unknown.meaning) == ("–", "it was not measured")


def test_readouts_say_what_they_share() -> None:
    first, other = made_circuit(without=(("stem", 2),)), made_circuit(without=(("late", 8),))
    fact = readout_fact(other, first)
    assert fact.value == "6 channels"
    assert fact.meaning.startswith("5 of them are also in object 1’s readout")
    assert in_common([first, other]) == (
        "The readouts of the 2 objects (6, 6 channels) have 5 channels in common."
    )
    assert in_common([first]) == ""


def test_the_figure_of_a_circuit_says_how_far_it_was_tested() -> None:
    explanation = made_explanation()
    tested = circuit_fact(made_circuit(), circuit_trials(made_check(), explanation))
    assert tested.value == "7 channels"
    assert tested.meaning == "in 3 layers, 10 edges; 2 of 2 tests green"
    untested = circuit_fact(made_circuit(), circuit_trials(None, explanation))
    assert untested.meaning.endswith("a hypothesis: not tested")


def test_other_methods_in_one_sentence() -> None:
    table = made_table()
    assert better(method_rows(table)) == (
        "To keep the label on all 8 backgrounds this mask needs 25% of the pixels; Grad-CAM needs "
        "50% (2.0 times), Centred disc (control) never does."
    )
    assert better(method_rows(table[:1])).endswith("needs 25% of the pixels to keep the label on "
                                                   "all 8 backgrounds.")  # fmt: skip
    none = table.assign(area_robust=float("nan"))
    assert better(method_rows(none)).startswith("No share of this mask’s pixels")
