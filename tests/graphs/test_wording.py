import dataclasses

import pytest

import expcam
from expcam.graphs.wording import share, verdict


def test_shares() -> None:
    assert [share(v) for v in (0.0412, 0.5, 1.0, float("nan"))] == ["4.1%", "50%", "100%", "–"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kept": True, "robustness": 1.0, "necessary": True}, ["all eight", "something else"]),
        (
            {"kept": True, "robustness": 0.5, "necessary": False},
            ["only on 4 of eight", "can do without"],
        ),
        ({"kept": False}, ["No mask was found", "does not keep it"]),
    ],
)
def test_a_verdict_claims_what_was_checked(
    cat: expcam.Explanation, changes: dict[str, object], words: list[str]
) -> None:
    text = verdict(dataclasses.replace(cat, **changes))  # type: ignore[arg-type]
    assert all(word in text for word in words)
