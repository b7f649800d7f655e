"""What a count of successes says of a probability."""

from scipy.stats import binomtest

LEVEL = 0.95


def lower_bound(successes: int, trials: int, level: float = LEVEL) -> float:
    """One-sided lower confidence bound of a probability (Clopper and Pearson, 1934).

    Args:
        successes: How many of the independent trials succeeded.
        trials: How many there were.
        level: Confidence, in (0, 1).
    """
    found = binomtest(successes, trials, alternative="greater")
    return float(found.proportion_ci(confidence_level=level, method="exact").low)
