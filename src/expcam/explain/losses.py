"""What is minimised: the two losses of our search, and the seven published terms.

Suhail, Anand, Sethi: *Activation Matching for Explanation Generation* (arXiv 2509.23051) and
*EXP-CAM* (arXiv 2509.25686).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

KL_TEMPERATURE = 2.0
SHALLOW_TAPS = 2
TAP_WEIGHTS = (1.0, 2.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the classifier makes of the whole image.

    Attributes:
        logits: ``(classes,)``.
        activations: Output of each tap, ``(1, …)``, from shallow to deep.
        label: The class to be explained.
    """

    logits: Tensor
    activations: Mapping[str, Tensor]
    label: int


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one step of the published recipe saw of the masked image.

    Attributes:
        probability: Mask probabilities ``(H, W)``.
        logits: ``(backgrounds, classes)``, the zero background first.
        activations: Output of each tap, ``(backgrounds, …)``.
        reference: The same for the whole image.
    """

    probability: Tensor
    logits: Tensor
    activations: Mapping[str, Tensor]
    reference: Reference


def holding(logits: Tensor, label: int) -> Tensor:
    """Mean cross-entropy of logits ``(n, classes)`` against the class that is to be kept."""
    return -logits.log_softmax(-1)[:, label].mean()


def losing(logits: Tensor, label: int) -> Tensor:
    """Mean ``-log(1 - p)`` of the probability ``p`` of the class that is to be lost."""
    others = logits.clone()
    others[:, label] = -torch.inf
    return (logits.logsumexp(-1) - others.logsumexp(-1)).mean()


def total_variation(p: Tensor) -> Tensor:
    """Mean difference of probabilities ``(H, W)`` to the eight neighbours.

    Diagonal ones weigh 1/√2.
    """
    straight = (p[1:] - p[:-1]).abs().mean() + (p[:, 1:] - p[:, :-1]).abs().mean()
    diagonal = (p[1:, 1:] - p[:-1, :-1]).abs().mean() + (p[1:, :-1] - p[:-1, 1:]).abs().mean()
    return straight + diagonal / 2**0.5


def activation_matching(seen: Observation) -> Tensor:
    """Weighted distance between the activations of the image and of the first composite.

    The two shallowest taps are compared by direction (1 - cosine over channels), the deeper ones
    by the squared difference after standardising each channel over space.
    """
    first = {name: output[:1] for name, output in seen.activations.items()}
    return activation_distance(seen.reference.activations, first)


def activation_distance(whole: Mapping[str, Tensor], masked: Mapping[str, Tensor]) -> Tensor:
    """The published distance between outputs ``(1, …)`` of the same taps, shallow to deep."""
    distances = []
    for depth, name in enumerate(whole):
        if depth < SHALLOW_TAPS:
            channels = -1 if whole[name].ndim == 3 else 1  # tokens have them last
            distance = (1 - F.cosine_similarity(whole[name], masked[name], dim=channels)).mean()
        else:
            distance = (_standardised(whole[name]) - _standardised(masked[name])).square().mean()
        distances.append(TAP_WEIGHTS[max(0, len(TAP_WEIGHTS) - len(whole) + depth)] * distance)
    return sum(distances, torch.zeros(()))


def cross_entropy(seen: Observation) -> Tensor:
    """Cross-entropy of the first composite against the class."""
    label = torch.tensor([seen.reference.label], device=seen.logits.device)
    return F.cross_entropy(seen.logits[:1], label)


def distillation(seen: Observation) -> Tensor:
    """``T² KL(softmax(f(x)/T) ‖ softmax(f(e)/T))`` of the first composite, with ``T = 2``."""
    return KL_TEMPERATURE**2 * divergence(
        seen.reference.logits / KL_TEMPERATURE, seen.logits[:1] / KL_TEMPERATURE
    )


def area(seen: Observation) -> Tensor:
    """Mean mask probability."""
    return seen.probability.mean()


def binarity(seen: Observation) -> Tensor:
    """``mean(p (1 - p))``, which is least for a mask of zeros and ones."""
    return (seen.probability * (1 - seen.probability)).mean()


def robustness(seen: Observation) -> Tensor:
    """The abductive constraint: mean over backgrounds ``r`` of ``KL(f(x) ‖ f(e_r))``."""
    return divergence(seen.reference.logits, seen.logits)


TERMS: dict[str, Callable[[Observation], Tensor]] = {
    "act": activation_matching,
    "ce": cross_entropy,
    "kl": distillation,
    "area": area,
    "bin": binarity,
    "tv": lambda seen: total_variation(seen.probability),
    "rob": robustness,
}
"""The published terms, by the symbols of their weights."""


def weighted(seen: Observation, weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the published terms named in ``weights``."""
    total = torch.zeros((), device=seen.probability.device)
    for name, weight in weights.items():
        total = total + weight * TERMS[name](seen)
    return total


def _standardised(activation: Tensor) -> Tensor:
    space = tuple(range(2, activation.ndim)) if activation.ndim > 3 else (1,)
    mean = activation.mean(space, keepdim=True)
    deviation = activation.std(space, keepdim=True, correction=0)
    return (activation - mean) / (deviation + 1e-5)


def divergence(whole: Tensor, masked: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence ``KL(f(x) ‖ f(e))`` in nats.

    Args:
        whole: Logits ``(classes,)`` of the whole image.
        masked: Of masked ones, ``(n, classes)``.
    """
    target = whole.log_softmax(-1).expand_as(masked)
    return F.kl_div(masked.log_softmax(-1), target, reduction="batchmean", log_target=True)
