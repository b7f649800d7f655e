"""What a mask keeps of each stage, beside its controls: a small table."""

from dataclasses import dataclass

from expcam.explain.explanation import Explanation
from expcam.explain.match import Match
from expcam.graphs.wording import MATCH_CONTROLS, share

OURS = "this mask"


@dataclass(frozen=True, kw_only=True)
class MatchRow:
    """What one mask keeps.

    Attributes:
        title: Which mask.
        pooled: Cosine similarity at each tap, averaged over space, as text.
        spatial: The same, place by place.
        divergence: In nats, as text.
    """

    title: str
    pooled: list[str]
    spatial: list[str]
    divergence: str


def match_rows(explanation: Explanation) -> list[MatchRow]:
    """The mask, then its controls."""
    controls = explanation.match_controls.items()
    return [
        _row(OURS, explanation.match),
        *(_row(MATCH_CONTROLS[name], each) for name, each in controls),
    ]


def _row(title: str, match: Match) -> MatchRow:
    return MatchRow(
        title=title,
        pooled=[share(each) for each in match.pooled.values()],
        spatial=[share(each) for each in match.spatial.values()],
        divergence=f"{match.divergence:.2f}",
    )
