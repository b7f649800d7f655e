"""A residual block with batch norms, small enough to work out by hand.

The image is (1, 2, 3) in every pixel. ``conv1`` gives (1, 1), its batch norm scales by (2, 4), so
``a1 = (2, 4)``. ``conv2`` gives (2 + 2, -2 + 4) = (4, 2), its batch norm scales by (1/2, -1) and
adds (0, 1), so ``a2 = (2, -1)``. The sum is (4, 3) and the logits (4 - 3, 2 + 6) = (1, 8).
"""

import pytest
import torch
from torch import Tensor, nn

import expcam
from tests.helpers import RedDetector, keeping_everything, kernel


class MicroResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 2, bias=False)
        self.bn1.running_var = torch.full((2,), 0.25 - self.bn1.eps)
        self.bn2.running_var = torch.full((2,), 1 - self.bn2.eps)
        with torch.no_grad():
            self.conv1.weight.copy_(kernel([[1, 0, 0], [0, -1, 1]]))
            self.bn1.weight.copy_(torch.tensor([1.0, 2.0]))
            self.conv2.weight.copy_(kernel([[1, 0.5], [-1, 1]]))
            self.bn2.weight.copy_(torch.tensor([0.5, -1.0]))
            self.bn2.bias.copy_(torch.tensor([0.0, 1.0]))
            self.fc.weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += x
        logits: Tensor = self.fc(self.pool(self.relu(out)).flatten(1))
        return logits


@pytest.fixture
def micro() -> expcam.Classifier:
    return expcam.Classifier(
        MicroResNet().eval(), transform=lambda image: torch.zeros(3, 2, 2), labels=["no", "yes"]
    )


@pytest.fixture
def all_kept(micro: expcam.Classifier) -> expcam.Explanation:
    """An explanation that keeps every pixel of the image (1, 2, 3)."""
    x = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 2).clone()
    return keeping_everything(micro, x, 1)


@pytest.fixture(scope="session")
def detector() -> expcam.Classifier:
    """A detector of red and blue with four channels: two see red, two see blue."""
    return expcam.Classifier(
        RedDetector().eval(), lambda image: image, ["nothing", "red", "blue"], name="detector"
    )
