"""What a hard mask does on backgrounds that no search has used."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.classifier.model import BATCH, Classifier
from expcam.explain.backgrounds import evaluation_backgrounds, evaluation_draws, evaluation_rng
from expcam.explain.decision import Decision
from expcam.explain.match import ELSEWHERE, GRADCAM, MOVED, Match, mean_of, moved
from expcam.explain.pixels import level_set
from expcam.search.engine import FORWARD


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a hard mask does, checked after binarisation.

    Attributes:
        area: Share of pixels kept.
        kept: Whether the explanation on the zero background has the label.
        robustness: Share of the backgrounds of `EVALUATION` on which it has.
        necessary: Whether the image without the mask's pixels loses the label.
        confidence: Probability of the label on the zero background.
        draws: Independent backgrounds tried beyond those.
        draws_kept: On how many of them the label is kept.
        match: How far the explanation keeps the activations.
        match_controls: The same of the mask elsewhere, `MOVED`, and of Grad-CAM at its area.
        passes: What the verification took, in forward and backward passes.
    """

    area: float
    kept: bool
    robustness: float
    necessary: bool
    confidence: float
    draws: int
    draws_kept: int
    match: Match
    match_controls: Mapping[str, Match]
    passes: float


@torch.no_grad()
def predictions(classifier: Classifier, x: Tensor, masks: Tensor, backgrounds: Tensor) -> Tensor:
    """Logits of every mask on every background.

    Args:
        classifier: A frozen classifier.
        x: Normalised image ``(channels, H, W)``.
        masks: Boolean ``(n, H, W)``.
        backgrounds: ``(k, channels, H, W)``.

    Returns:
        Logits ``(n, k, classes)``.
    """
    count, kinds = len(masks), len(backgrounds)
    rows = []
    for chunk in torch.arange(count * kinds, device=x.device).split(BATCH):
        keep = masks[chunk // kinds][:, None]
        rows.append(classifier.logits(torch.where(keep, x, backgrounds[chunk % kinds])))
    return torch.cat(rows).view(count, kinds, -1)


def keeps(
    classifier: Classifier, x: Tensor, masks: Tensor, backgrounds: Tensor, label: int
) -> Tensor:
    """Whether each mask keeps the label on each background: boolean ``(n, k)``."""
    return predictions(classifier, x, masks, backgrounds).argmax(-1) == label


def verify(decision: Decision, mask: Tensor, seed: int = 0) -> Verification:
    """Check a hard mask ``(H, W)`` against the contract of an explanation."""
    classifier, x, label = decision.classifier, decision.x, decision.label
    unseen, more = evaluation_backgrounds(x, seed), evaluation_draws(x, seed)
    logits = predictions(classifier, x, mask[None], torch.cat([unseen, more]))[0]
    without = predictions(classifier, x, ~mask[None], unseen[:1])[0]
    held = logits.argmax(-1) == label
    match, controls, passes = _matches(decision, mask, seed)
    return Verification(
        area=float(mask.float().mean()),
        kept=bool(held[0]),
        robustness=float(held[: len(unseen)].float().mean()),
        necessary=int(without[0].argmax()) != label,
        confidence=float(logits[0].softmax(-1)[label]),
        draws=len(more),
        draws_kept=int(held[len(unseen) :].sum()),
        match=match,
        match_controls=controls,
        passes=(passes + len(logits) + 1) * FORWARD,
    )


def _matches(decision: Decision, mask: Tensor, seed: int) -> tuple[Match, dict[str, Match], int]:
    """How far the mask keeps the activations, its controls, and the forward passes that took."""
    classifier, x = decision.classifier, decision.x
    masks = [mask[None], moved(mask, evaluation_rng(seed))]
    if decision.cam is not None:
        masks.append(level_set(decision.cam, float(mask.float().mean()))[None])
    found = decision.whole.matches(classifier, x, torch.cat(masks))
    controls = {MOVED: mean_of(found[1 : 1 + ELSEWHERE])}
    if decision.cam is not None:
        controls[GRADCAM] = found[-1]
    return found[0], controls, len(found)
