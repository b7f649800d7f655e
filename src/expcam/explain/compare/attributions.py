"""Attribution methods to stand beside the mask, from captum, and the controls.

Importing this module is cheap: torch and captum are loaded when a method runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expcam.errors import ClassifierError

if TYPE_CHECKING:
    from torch import Tensor

    from expcam.classifier.model import Classifier

IG_STEPS = 32


@dataclass(frozen=True)
class Baseline:
    """An attribution method.

    Attributes:
        title: What people call it.
        note: What its map shows, in a few words.
        attribute: Maps a classifier, a normalised image ``(channels, H, W)`` and a class index to
            an attribution map ``(H, W)`` on the image's device; higher means more important.
    """

    title: str
    note: str
    attribute: Callable[[Classifier, Tensor, int], Tensor]


def gradcam(classifier: Classifier, x: Tensor, label: int) -> Tensor:
    """Grad-CAM at the last feature map (Selvaraju et al., arXiv 1610.02391), by captum.

    It takes two forward passes, one of them to find the map, and a backward pass.

    Raises:
        ClassifierError: The classifier has no feature map behind its first layers.
    """
    import torch
    from captum.attr import LayerAttribution, LayerGradCam

    from expcam.classifier.frozen import frozen
    from expcam.classifier.taps import stage_outputs

    with frozen(classifier.network) as module:
        with torch.no_grad():
            _, stages = stage_outputs(classifier, x)
        last = list(stages)[-1] if stages else ""
        if not last or stages[last].ndim != 4:
            raise ClassifierError(
                f"Grad-CAM needs a convolutional feature map; classifier `{classifier.name}` "
                "has none behind its first layers"
            )
        method = LayerGradCam(classifier.logits, module.get_submodule(last))
        cam = method.attribute(x[None].clone().requires_grad_(), target=label).detach()
        upsampled: Tensor = LayerAttribution.interpolate(cam, tuple(x.shape[-2:]), "bilinear")
    return upsampled[0, 0].float()


def integrated_gradients(classifier: Classifier, x: Tensor, label: int) -> Tensor:
    """Integrated Gradients from the mean colour (Sundararajan et al., arXiv 1703.01365).

    The absolute attributions of the channels are summed; the map is then averaged over
    5×5 pixels, without which single pixels would be kept that no classifier recognises.
    """
    from captum.attr import IntegratedGradients
    from torch.nn.functional import avg_pool2d

    from expcam.classifier.frozen import frozen

    with frozen(classifier.module):
        signed = IntegratedGradients(classifier.logits).attribute(
            x[None], target=label, n_steps=IG_STEPS, internal_batch_size=8
        )
    summed = signed.detach().float().abs().sum(1, keepdim=True)
    return avg_pool2d(summed, 5, stride=1, padding=2)[0, 0]


def occlusion(classifier: Classifier, x: Tensor, label: int) -> Tensor:
    """Drop of the logit under a grey patch of one eighth of the side (arXiv 1311.2901)."""
    from captum.attr import Occlusion

    from expcam.classifier.frozen import frozen

    patch = max(1, min(x.shape[-2:]) // 8)
    with frozen(classifier.module):
        drop: Tensor = Occlusion(classifier.logits).attribute(
            x[None],
            sliding_window_shapes=(len(x), patch, patch),
            strides=(len(x), max(1, patch // 2), max(1, patch // 2)),
            target=label,
            perturbations_per_eval=16,
        )
    return drop.detach().float().sum(1)[0]


def centred_disc(classifier: Classifier, x: Tensor, label: int) -> Tensor:
    """A control that looks at neither image nor classifier: pixels by distance from the centre."""
    import torch

    rows, columns = (torch.linspace(-1, 1, side, device=x.device) for side in x.shape[-2:])
    return -torch.hypot(rows[:, None], columns[None, :])


BASELINES: dict[str, Baseline] = {
    "gradcam": Baseline("Grad-CAM", "class evidence in the last feature map", gradcam),
    "ig": Baseline(
        "Integrated Gradients", "from the mean colour, absolute, smoothed", integrated_gradients
    ),
    "occlusion": Baseline("Occlusion", "drop of the logit under a grey patch", occlusion),
    "disc": Baseline("Centred disc (control)", "distance from the centre", centred_disc),
}
DEFAULT_METHODS = ("gradcam", "ig", "disc")
