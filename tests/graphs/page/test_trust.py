import dataclasses
from typing import Any

import pytest

from expcam.explain.match import MOVED, Match
from expcam.explain.match import UNKNOWN as NOT_MEASURED
from expcam.graphs.methods import method_rows
from expcam.graphs.page.trust import (
    AMBER,
    GREEN,
    RED,
    UNKNOWN,
    Trial,
    circuit_trials,
    mask_trials,
)
from tests.graphs.made import made_check, made_explanation, made_match, made_table

ROWS = method_rows(made_table())
NO_TAPS = Match(spatial={}, pooled={}, divergence=0.1)


def colours(**changes: object) -> list[str]:
    explanation = dataclasses.replace(made_explanation(), **changes)  # type: ignore[arg-type]
    return [trial.colour for trial in mask_trials(explanation, ROWS)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [GREEN, GREEN, GREEN, GREEN, GREEN, GREEN]),
        ({"kept": False}, [RED, RED, GREEN, GREEN, GREEN, GREEN]),
        ({"robustness": 5 / 8}, [GREEN, AMBER, GREEN, GREEN, GREEN, GREEN]),
        ({"robustness": 3 / 8}, [GREEN, RED, GREEN, GREEN, GREEN, GREEN]),
        ({"necessary": False}, [GREEN, GREEN, AMBER, GREEN, GREEN, GREEN]),
        ({"objective": "both", "necessary": False}, [GREEN, GREEN, RED, GREEN, GREEN, GREEN]),
        ({"cell": 0}, [GREEN, GREEN, GREEN, GREEN, AMBER, GREEN]),
        # What was not asked for is no failure.
        (
            {"objective": "necessary", "kept": False, "robustness": 0.0},
            [AMBER, AMBER, GREEN, GREEN, GREEN, GREEN],
        ),
        # Backgrounds other than the mean colour were not asked for.
        (
            {"objective": "sufficient", "robustness": 1 / 8},
            [GREEN, AMBER, GREEN, GREEN, GREEN, GREEN],
        ),
    ],
)
def test_a_mask_is_judged_by_what_was_asked(
    changes: dict[str, object], expected: list[str]
) -> None:
    assert colours(**changes) == expected


def test_a_label_that_the_rest_keeps_asks_for_the_alternatives() -> None:
    e = dataclasses.replace(made_explanation(), necessary=False)
    other = dataclasses.replace(e, area=0.25)

    def rest(**known: object) -> Trial:
        return mask_trials(e, ROWS, **known)[2]  # type: ignore[arg-type]

    assert rest().command == "expcam-circuit square.png --out graph.html --alternatives 1"
    assert rest(command="expcam-circuit a.png --seed 2").command == (
        "expcam-circuit a.png --seed 2 --alternatives 1"
    )
    assert rest(alternatives=[other, other]).statement.endswith("as alternatives: 25% and 25%.")
    assert rest(alternatives=[]).statement.endswith("No other small set of pixels was found that "
                                                    "is enough.")  # fmt: skip
    assert rest(alternatives=[other]).command == rest(alternatives=[]).command == ""
    assert mask_trials(made_explanation(), ROWS)[2].command == ""


@pytest.mark.parametrize(
    ("last", "asked", "colour", "told"),
    [
        (0.70, {}, GREEN, "(late) responds 70% alike"),  # Grad-CAM has 60%, elsewhere 45%
        (0.69, {}, AMBER, "(late) responds 69% alike"),
        (0.60, {}, RED, "it explains the label, not the computation"),
        (0.75, {"mid": 0.9, "late": 0.7}, GREEN, "at least 90% at mid, reached (90%)"),
        (0.75, {"late": 0.8}, RED, "at least 80% at late, NOT reached (75%)"),
    ],
)
def test_a_match_is_judged_beside_its_controls(
    last: float, asked: dict[str, float], colour: str, told: str
) -> None:
    e = dataclasses.replace(made_explanation(), match=made_match(last), match_asked=asked)
    trial = mask_trials(e, ROWS)[3]
    assert trial.question == "Does it keep the computation?"
    assert trial.colour == colour
    assert told in trial.statement
    assert ("not the computation" in trial.statement) == (last == 0.6)
    assert trial.control == "this mask elsewhere 45%, Grad-CAM's pixels of this area 60%."
    assert trial.command == "expcam-circuit square.png --out graph.html --match-curve"
    assert mask_trials(e, ROWS, curve=True)[3].command == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"match": NO_TAPS, "match_controls": {MOVED: NO_TAPS}}, "TorchScript hides them all"),
        ({"match": NOT_MEASURED}, "it was not measured"),
        ({"match_controls": {}}, "it was not measured"),
    ],
)
def test_without_a_match_it_says_why(changes: dict[str, Any], why: str) -> None:
    trial = mask_trials(dataclasses.replace(made_explanation(), **changes), ROWS)[3]
    assert trial.colour == UNKNOWN
    assert why in trial.statement
    assert trial.command == ""


@pytest.mark.parametrize(
    ("gradcam", "disc", "colour"),
    [
        (0.5, float("nan"), GREEN),
        (0.25, float("nan"), AMBER),
        (0.1, 0.5, AMBER),
        (0.5, 0.25, RED),
    ],
)
def test_a_mask_that_is_no_smaller_than_a_control_is_red(
    gradcam: float, disc: float, colour: str
) -> None:
    table = made_table().assign(area_robust=[0.25, gradcam, float("nan"), disc])
    trial = mask_trials(made_explanation(), method_rows(table))[-1]
    assert trial.colour == colour
    assert "Grad-CAM" in trial.control
    assert "Integrated" not in trial.control  # it did not run


def test_without_other_methods_the_command_that_runs_them_is_given() -> None:
    trial = mask_trials(made_explanation(source="my cat.png"), method_rows(made_table()[:1]))[-1]
    assert trial.colour == UNKNOWN
    assert trial.command == (
        "expcam-circuit 'my cat.png' --out graph.html --baselines gradcam,ig,disc"
    )


@pytest.mark.parametrize(
    ("faithfulness", "kept", "random", "colour"),
    [
        (0.9, True, 0.1, GREEN),
        (1.5, True, 0.1, AMBER),  # it over-excites the class
        (0.9, True, 0.95, AMBER),  # so do random channels
        (0.9, False, 0.1, RED),
    ],
)
def test_a_circuit_is_judged_beside_random_channels(
    faithfulness: float, kept: bool, random: float, colour: str
) -> None:
    check = made_check(faithfulness, kept=kept, random=random)
    holds, needed = circuit_trials(check, made_explanation())
    assert holds.colour == colour
    assert f"random channels give {random:.2f}" in holds.control
    assert needed.colour == GREEN


def test_a_circuit_that_random_channels_are_needed_as_much_as_is_amber() -> None:
    check = made_check()
    check.circuit.loc[check.circuit["method"] == "random", "completeness"] = 0.3
    assert circuit_trials(check, made_explanation())[1].colour == AMBER
    check.circuit["completeness"] = 0.7
    assert circuit_trials(check, made_explanation())[1].colour == RED


def test_a_circuit_that_was_not_tested_says_how_it_would_be() -> None:
    (trial,) = circuit_trials(None, made_explanation())
    assert trial.colour == UNKNOWN
    assert trial.command == "expcam-circuit square.png --out graph.html --verify"


def test_a_circuit_that_cannot_be_tested_names_no_command() -> None:
    (trial,) = circuit_trials(None, made_explanation(), "modules: a reason")
    assert trial.colour == UNKNOWN
    assert trial.command == ""
    assert "cannot be ablated" in trial.statement


def test_claims_are_told_where_there_are_any() -> None:
    nan = float("nan")
    rows = [
        ("sufficient", 1.0, 0.2, 0.95, 0.001, True, "It says the class in 24 of 24 trials."),
        ("discriminating", 0.05, 1.0, 0.1, 0.001, True, "It says the class in 1 of 24 trials."),
        ("necessary", 0.95, 0.92, 0.9, 0.6, False, "Without it the class is lost."),
        ("equivalent", 0.9, 0.5, 0.5, 0.001, False, "It says the class by more in 22 of 24."),
        ("minimal", 1.0, nan, 1.0, nan, True, "No single channel can be spared."),
        ("specific", 0.5, 0.2, 0.9, 0.001, False, "Other photographs' circuits do as well."),
        ("stable", nan, nan, 0.5, nan, None, "It was not looked for again with other seeds."),
    ]
    found = circuit_trials(made_check(claims=rows), made_explanation())
    colours = [GREEN, GREEN, AMBER, RED, GREEN, RED, UNKNOWN]
    assert [trial.colour for trial in found] == colours
    assert found[0].question == "Does the circuit hold without the rest?"
    assert found[0].statement.endswith("in 24 of 24 trials. At least 0.95 counts.")
    assert found[0].control == "0.20 beside 1.00."
    assert found[1].statement.endswith("At most 0.10 counts.")
    assert found[3].statement.endswith("Within chance of 0.50 counts.")
    assert found[4].control == ""
    assert found[6].command.startswith("expcam.verify_circuit")


def test_why_there_are_no_claims_is_told_before_what_zero_ablation_says() -> None:
    check = made_check(untested="the whole model does not hold its label")
    first, *others = circuit_trials(check, made_explanation())
    assert first.colour == UNKNOWN
    assert first.statement == "That could not be tried: the whole model does not hold its label."
    assert others == circuit_trials(made_check(), made_explanation())
