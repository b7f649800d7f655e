"""The classifier that ships with the package: architecture, weights and labels."""

import csv
from collections.abc import Sequence
from importlib.resources import files

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1
from torchvision.transforms._presets import ImageClassification

STEM_CHANNELS = 32
STAGE_CHANNELS = (64, 128, 256)
BLOCKS_PER_STAGE = 2
SIDE = 64
"""Pixels a side, as in training."""
ASSETS = files("expcam.classifier") / "assets"
WEIGHTS_FILE = ASSETS / "bundled.safetensors"
LABELS_FILE = ASSETS / "bundled_labels.csv"


class SmallResNet(nn.Module):
    """A residual network for small images, made of torchvision's basic blocks.

    A 3×3 stem of stride 2, then three stages of stride 2 each: the final feature map has one
    sixteenth of the input's height and width. Takes ``(batch, 3, height, width)`` in ImageNet
    normalisation and gives logits ``(batch, num_classes)``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        first, second, third = STAGE_CHANNELS
        self.layer1 = _stage(STEM_CHANNELS, first)
        self.layer2 = _stage(first, second)
        self.layer3 = _stage(second, third)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of normalised images ``(batch, 3, H, W)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def bundled_classes() -> Sequence[tuple[tuple[str, ...], str]]:
    """WordNet ids and readable name of each class, in the order of the logits.

    A class has one id, but for the cat, which unites three breeds of ImageNet.
    """
    rows = csv.DictReader(LABELS_FILE.read_text(encoding="utf-8").splitlines())
    return [(tuple(row["wnids"].split()), row["name"]) for row in rows]


def bundled_transform() -> ImageClassification:
    """Resize the shorter side, crop the centre, normalise."""
    return ImageClassification(crop_size=SIDE, resize_size=SIDE)


def _stage(channels_in: int, channels_out: int) -> nn.Sequential:
    shortcut = nn.Sequential(
        conv1x1(channels_in, channels_out, stride=2), nn.BatchNorm2d(channels_out)
    )
    blocks = [BasicBlock(channels_in, channels_out, stride=2, downsample=shortcut)]
    blocks += [BasicBlock(channels_out, channels_out) for _ in range(BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(*blocks)
