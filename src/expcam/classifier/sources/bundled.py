"""A small classifier of 103 everyday classes that ships with the package: for tests and teaching.

It sees 64×64 pixels and is quick; it is often wrong on photographs.
"""

import csv
from collections.abc import Sequence
from importlib.resources import files

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1
from torchvision.transforms._presets import ImageClassification

from expcam.classifier.sources import BUNDLED
from expcam.classifier.sources.blueprint import Blueprint, Usage
from expcam.classifier.sources.checkpoints import fit_weights

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


def blueprint() -> Blueprint:
    """The network that was trained here, 64×64 pixels."""
    return Blueprint(
        name=BUNDLED,
        build=lambda classes: SmallResNet(classes or len(bundled_classes())),
        published=_published,
        usage=lambda _module: Usage(
            # Resizes the shorter side, crops the centre, normalises.
            transform=ImageClassification(crop_size=SIDE, resize_size=SIDE),
            labels=tuple(name for _, name in bundled_classes()),
        ),
    )


def bundled_classes() -> Sequence[tuple[tuple[str, ...], str]]:
    """WordNet ids and readable name of each class, in the order of the logits.

    A class has one id, but for the cat, which unites three breeds of ImageNet.
    """
    rows = csv.DictReader(LABELS_FILE.read_text(encoding="utf-8").splitlines())
    return [(tuple(row["wnids"].split()), row["name"]) for row in rows]


def _published() -> nn.Module:
    module = SmallResNet(len(bundled_classes()))
    fit_weights(module, str(WEIGHTS_FILE), BUNDLED)
    return module


def _stage(channels_in: int, channels_out: int) -> nn.Sequential:
    shortcut = nn.Sequential(
        conv1x1(channels_in, channels_out, stride=2), nn.BatchNorm2d(channels_out)
    )
    blocks = [BasicBlock(channels_in, channels_out, stride=2, downsample=shortcut)]
    blocks += [BasicBlock(channels_out, channels_out) for _ in range(BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(*blocks)
