import dataclasses

import pandas as pd
import pytest

import expcam
from expcam.circuits.ablation.choices import CIRCUIT, RANDOM
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.scores import BY_GRADIENT, EDGE_SCORES
from expcam.graphs.wording import (
    circuit_figures,
    circuit_verdict,
    edge_meaning,
    holding,
    minimality,
    share,
    verdict,
)


def test_shares() -> None:
    assert [share(v) for v in (0.0412, 0.5, 1.0, float("nan"))] == ["4.1%", "50%", "100%", "–"]


def test_every_score_of_edges_has_a_meaning() -> None:
    for name in EDGE_SCORES:
        meaning = edge_meaning(name)
        assert meaning != "as its name says."
        assert edge_meaning(name + BY_GRADIENT).startswith(meaning)
        assert "gradients between modules" in edge_meaning(name + BY_GRADIENT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kept": True, "robustness": 1.0, "necessary": True}, ["all 8 unseen", "no longer does"]),
        (
            {"kept": True, "robustness": 0.5, "necessary": False},
            ["and so it does on 4 of 8 unseen", "can do without"],
        ),
        (
            {"kept": True, "robustness": 0.25, "necessary": False},
            ["but only on 2 of 8 unseen", "can do without"],
        ),
        (
            {"kept": True, "robustness": 1.0, "necessary": False, "predicted": False},
            ["the classifier says “cat”", "whole photograph it does not"],
        ),
        ({"kept": False}, ["No mask was found", "does not keep it"]),
        (
            {"objective": "necessary", "necessary": True, "kept": False},
            ["no longer says “cat”", "are not enough"],
        ),
        ({"objective": "necessary", "necessary": False}, ["No part was found", "still does"]),
        ({"kept": True, "contrast": 1, "contrast_name": "dog"}, ["still prefers “cat” to “dog”"]),
    ],
)
def test_a_verdict_claims_what_was_checked(
    cat: expcam.Explanation, changes: dict[str, object], words: list[str]
) -> None:
    text = verdict(dataclasses.replace(cat, **changes))  # type: ignore[arg-type]
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    ("objective", "kept", "robustness", "necessary", "expected"),
    [
        ("robust", True, 1.0, False, "yes"),
        ("robust", True, 7 / 8, False, "mostly"),
        ("robust", True, 4 / 8, False, "mostly"),
        ("robust", True, 3 / 8, False, "no"),
        ("robust", False, 7 / 8, False, "no"),
        ("sufficient", True, 1 / 8, False, "yes"),
        ("sufficient", False, 1.0, False, "no"),
        ("necessary", False, 0.0, True, "yes"),
        ("necessary", True, 1.0, False, "no"),
        ("both", True, 7 / 8, True, "mostly"),
        ("both", True, 1.0, False, "no"),
    ],
)
def test_a_mask_holds_as_far_as_its_objective_asks(
    cat: expcam.Explanation,
    objective: str,
    kept: bool,
    robustness: float,
    necessary: bool,
    expected: str,
) -> None:
    explanation = dataclasses.replace(
        cat, objective=objective, kept=kept, robustness=robustness, necessary=necessary
    )
    assert holding(explanation) == expected


def test_minimality_names_the_cell(cat: expcam.Explanation) -> None:
    assert "4×4 pixels" in minimality(dataclasses.replace(cat, cell=4))
    assert "not known" in minimality(dataclasses.replace(cat, cell=0))


def a_check(distance: dict[str, float]) -> CircuitCheck:
    """One image, one size; the faithfulness of each method lies so far below 1."""
    columns = {"image": 0, "parts": "nodes", "ablation": "zero", "draw": 0, "size": 0.25}
    rows = [
        {**columns, "method": name, "faithfulness": 1 - gap, "completeness": 0.5,
         "label_kept": gap < 0.5, "logit_ratio": 1 - gap}
        for name, gap in distance.items()
    ]  # fmt: skip
    own = [{**row, "method": CIRCUIT} for row in rows[:1]] + rows[-1:]
    return CircuitCheck(
        curves=pd.DataFrame(rows), circuit=pd.DataFrame(own),
        ours={"nodes": "relevance", "edges": "signed"}, holds=True,
    )  # fmt: skip


def test_a_control_that_does_as_well_is_named() -> None:
    good = a_check({"relevance": 0.125, "activation": 0.25, RANDOM: 1.0})
    text = circuit_verdict(good)
    assert "these 25% of the channels give 0.88 of the whole model's logit" in text
    assert "the label holds; as many random ones give 0.00" in text
    assert "no control lies as near to 1" in text
    assert "label kept" in circuit_figures(good)
    assert "over all sizes: none" in circuit_figures(good)
    bad = a_check({"relevance": 0.75, "activation": 0.5, RANDOM: 0.75})
    assert "at least as near to 1 as the readout's own choice by relevance: activation, random" in (
        circuit_verdict(bad)
    )
    assert "the label is lost" in circuit_verdict(bad)
    assert "label LOST" in circuit_figures(bad)
