"""What a classifier says of masked images."""

import torch
from torch import Tensor

from expcam.classifier.model import BATCH, Classifier


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
