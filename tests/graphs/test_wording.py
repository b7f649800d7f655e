import dataclasses

import pytest

import expcam
from expcam.graphs.wording import minimality, share, verdict


def test_shares() -> None:
    assert [share(v) for v in (0.0412, 0.5, 1.0, float("nan"))] == ["4.1%", "50%", "100%", "–"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kept": True, "robustness": 1.0, "necessary": True}, ["all eight", "no longer does"]),
        (
            {"kept": True, "robustness": 0.5, "necessary": False},
            ["only on 4 of eight", "can do without"],
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


def test_minimality_names_the_cell(cat: expcam.Explanation) -> None:
    assert "4×4 pixels" in minimality(dataclasses.replace(cat, cell=4))
    assert "not pruned" in minimality(dataclasses.replace(cat, cell=0))
