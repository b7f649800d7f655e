"""The numbers of a search."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of a search, each with its reason; none is chosen for a single image.

    Shares are of all parts, margins are in logits. The *spread* is the standard deviation of the
    margin from one random perturbation to the next.

    Attributes:
        views: Perturbed inputs that the steps look at in all. They take two thirds of the passes;
            the rest is left for checks.
        early: Share of the steps after which hard choices are checked. Before that the scores
            are too coarse to be cut.
        interval: Steps from one check to the next: about as many as the scores need to follow.
        first_share: Where the share starts: above that of most results, because parts that are
            left out early are seldom taken back.
        first_margin: The margin that the steps ask for at first. While the edge is soft, a choice
            of the right size falls short.
        last_margin: What it has risen to when the checks begin: above what a hard choice needs,
            so that its size is reached from above. Scores beyond the edge of a choice that is too
            small are not learned.
        response: By how much the logarithm of the share falls for each logit of margin to spare.
            Faster, and the scores cannot follow.
        growth: The most by which it rises in a step, and once there are checks falls.
        memory: Decay of the running means of margins and of scores. Single draws tell little.
        first_edge: Parts on either side of the edge that are neither kept nor left out in the
            first step, as a share of those kept: what lies beyond the edge must be seen to be
            taken in.
        last_edge: The same in the last step, where the choice must be nearly binary.
        demand: Spreads by which the margin must exceed zero on the random perturbations that
            choose among many cuts: the one chosen has been lucky there.
        factor: From one share that is tried to the next when the last scores are cut.
        pruning: Passes that pruning may take, as a share of those of the steps.
    """

    views: int = 192
    early: float = 0.5
    interval: int = 7
    first_share: float = 0.2
    first_margin: float = -2.0
    last_margin: float = 1.0
    response: float = 0.05
    growth: float = 0.0125
    memory: float = 0.75
    first_edge: float = 1.0
    last_edge: float = 0.05
    demand: float = 1.0
    factor: float = 1.12
    pruning: float = 0.16
