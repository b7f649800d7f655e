"""What can be set of the default solver."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConstrainedRecipe:
    """Settings of `solve_constrained`; none needs tuning per image.

    Attributes:
        generator: A key of `GENERATORS`.
        weights: Terms of the objective for what keeps the mask's pixels; area and binarity are
            constraints here. Terms that match the whole image's activations and output can be
            added; they made masks that keep the label on one background several times larger.
        removal_weights: Terms for the image without them.
        steps: Number of updates, at most: where a view is random, and where none is.
        views: How many a step looks at; fewer where there are fewer.
        patience: A mask has been found, and none better in such a share of the steps, all of them
            in the second half: stop.
        shared_rate: Learning rate of the generator's filters (Adam).
        shared_interval: Steps from one update of the filters to the next.
        residual_rate: Step of the residual logits along the normalised gradient, in standard
            deviations of the mask logits.
        last_rate: Both rates at the last step, as a share of the first.
        momentum: Of the residual logits.
        smoothing: Standard deviation, as a share of the side, of the Gaussian by which the
            gradient of the residual logits is smoothed at first; it falls to half of that.
        averaging: Decay of the running mean of the logits, which is what masks are cut from.
        softest: At the first step, how many pixels on either side of the mask's edge are neither
            on nor off, as a share of the mask, see `project`; and where a mask need only keep
            the label on backgrounds that do not vary.
        hardest: The same at the last step, in both cases.
        binary_from: Share of the steps after which the mask is seen as it would be cut, in these
            two cases: fixed backgrounds beside the hard mask, and all without specks, with
            straight-through gradients. Some masks on backgrounds that do not vary never recovered
            from this change; an edge that is narrow from the start needs none.
        speck: A connected piece with less than this share of the mask's pixels is left out, unless
            an exact area is asked for.
        first_area: Where the area starts.
        descent: Share of the steps in which it falls to the area that is given, if one is.
        response: Change of the logarithm of the area for each logit of the hardest view's lead:
            where a view is random, and where none is.
        above: By how many logits a lead counts at most.
        below: By how many a deficit does, in these two cases, which bounds how fast the area
            grows: where no view is random each step shows what a check will.
        trailing: By how many logits the label may trail at first, in these two cases.
        settling: Share of the steps in which this falls to 0.
        memory: Decay of the running mean of a random view's lead; half as much for the others.
        unseen: Steps after which Gaussian noise is looked at again, and any other view, also
            where it is not the hardest.
        ahead: By how much the label must lead in the steps, in the running mean and when last
            seen: on random views, in standard deviations of its lead from draw to draw; on others,
            in logits. What the area follows is the lead beyond that.
        demanded: The same on each random view of a check, so that the mean must be larger; on
            those that confirm what was found it need only lead.
        spared: Pruning lowers no lead on a random view to less than so many standard deviations,
            and none that is less. What chose the mask are these views: with hardly any lead on
            them pruned masks fail on others.
        first_check: Share of the steps before which no mask is checked.
        gain: A mask is checked when its area is below this share of the best one's.
        pause: Steps without a check after one that failed; the area grows meanwhile.
        confronted: Steps in which, after a check that failed on a draw of noise, one of the views
            is that draw.
        pinned_from: Share of the steps after which, where some view is random, the area is that
            of the best mask; and after which no piece is left out, if no mask was found.
        enlarged: By what factor it is larger where that mask fails on further views.
        interval: Share of the steps from one check to the next where the area is given or pinned.
        acceptable: Share of views that a mask must pass to be better than all pixels.
        most_passes: Pruning starts nothing that would end beyond so many passes; when they are
            taken, what holds on the views that chose it need not be confirmed on others.
        smoothed_gradients: Whether steps that look at a random view follow `SmoothedGradients`
            instead of the classifier's own, which are mostly noise there.
        mixed_precision: Whether training steps, and the checks of masks between them, run in
            bfloat16; None for yes where the device computes in it. What confirms and verifies a
            mask never does; pruning screens so what it then tries in float32.
    """

    generator: str = "autoencoder"
    weights: tuple[tuple[str, float], ...] = (("hold", 1.0), ("tv", 6.0))
    removal_weights: tuple[tuple[str, float], ...] = (("lose", 1.0), ("tv", 0.3))
    steps: tuple[int, int] = (98, 190)
    views: int = 2
    patience: float = 0.42
    shared_rate: float = 1e-5
    shared_interval: int = 4
    residual_rate: float = 0.1
    last_rate: float = 0.1
    momentum: float = 0.7
    smoothing: float = 0.012
    averaging: float = 0.8
    softest: tuple[float, float] = (1.0, 0.2)
    hardest: float = 0.05
    binary_from: tuple[float, float] = (0.4, 1.0)
    speck: float = 0.04
    first_area: float = 0.2
    descent: float = 0.22
    response: tuple[float, float] = (0.05, 0.03)
    above: float = 3.0
    below: tuple[float, float] = (0.25, 0.75)
    trailing: tuple[float, float] = (2.0, 3.0)
    settling: float = 0.55
    memory: float = 0.7
    unseen: tuple[int, int] = (3, 8)
    ahead: tuple[float, float] = (1.0, 0.1)
    demanded: float = 0.65
    spared: float = 1.3
    first_check: float = 0.43
    gain: float = 0.85
    pause: int = 3
    confronted: int = 3
    pinned_from: float = 0.85
    enlarged: float = 1.25
    interval: float = 0.07
    acceptable: float = 0.75
    most_passes: float = 276
    smoothed_gradients: bool = True
    mixed_precision: bool | None = None
