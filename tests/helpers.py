"""A classifier small enough to work out by hand, and where things lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import expcam
from expcam.classifier.images import ImageSource

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHARED = ROOT.parent / "shared"


class RedDetector(nn.Module):
    """Says ``red`` where enough red is seen, ``blue`` where enough blue, else ``nothing``.

    Two halvings of the resolution, so that it has feature maps; 16 of 1,024 pixels of full red
    are enough.
    """

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(3, 2, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.halved = nn.AvgPool2d(2)
        self.mix = nn.Conv2d(2, 2, 1, bias=False)
        self.quartered = nn.AvgPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 3)
        with torch.no_grad():
            self.colour.weight.copy_(
                torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])[:, :, None, None]
            )
            self.mix.weight.copy_(torch.eye(2)[:, :, None, None])
            self.fc.weight.copy_(torch.tensor([[0.0, 0.0], [64.0, 0.0], [0.0, 64.0]]))
            self.fc.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.halved(self.relu(self.colour(x)))
        logits: Tensor = self.fc(self.pool(self.quartered(self.mix(x))).flatten(1))
        return logits


def red_square() -> Tensor:
    """A grey image ``(3, 32, 32)`` with a square of 8×8 pixels of red 2."""
    x = torch.zeros(3, 32, 32)
    x[0, 4:12, 16:24] = 2
    return x


def keeping_everything(
    classifier: expcam.Classifier, image: ImageSource | Tensor, label: int
) -> expcam.Explanation:
    """An explanation that keeps every pixel, made without a solver."""
    prepared = classifier.prepare(image)
    size = prepared.picture.shape[:2]
    return expcam.Explanation(
        mask=np.ones(size, np.bool_),
        probability=np.ones(size, np.float32),
        image=prepared.picture,
        photo=prepared.photo,
        input=prepared.input.numpy(),
        label=label,
        label_name=classifier.label_name(label),
        predicted=True,
        confidence=1.0,
        masked_confidence=1.0,
        area=1.0,
        kept=True,
        robustness=1.0,
        necessary=True,
        draws=32,
        draws_kept=32,
        bound=0.91,
        cell=0,
        seconds=0.0,
        cost=0.0,
        objective="robust",
        contrast=None,
        contrast_name="",
        classifier=classifier.name,
        recipe="none",
        seed=0,
    )


def predicted(classifier: expcam.Classifier, image: Path) -> tuple[str, float]:
    """The class that a photograph is given, and how sure of it the classifier is."""
    with torch.inference_mode():
        shares = classifier.logits(classifier.prepare(image).input[None])[0].softmax(0)
    return classifier.label_name(int(shares.argmax())), float(shares.max())


def kernel(rows: list[list[float]]) -> Tensor:
    """Weights of a 1×1 convolution, ``(out, in, 1, 1)``."""
    return torch.tensor(rows, dtype=torch.float32)[:, :, None, None]


def hooks(module: nn.Module) -> int:
    """How many hooks a module and its parts have."""
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in module.modules())


def keeping_red(classifier: expcam.Classifier, x: Tensor) -> expcam.Explanation:
    """An explanation of class 1 that keeps the pixels with red in them."""
    whole = keeping_everything(classifier, x, 1)
    return dataclasses.replace(whole, mask=np.asarray(x[0] > 0))
