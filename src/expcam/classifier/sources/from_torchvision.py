"""Torchvision's classifiers, by their names."""

from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from expcam.classifier.sources.blueprint import Blueprint, Usage
from expcam.classifier.sources.hub import not_downloaded, require_host

WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def names() -> list[str]:
    """What torchvision calls its classifiers."""
    known: list[str] = list_models(module=torchvision.models)
    return known


def blueprint(name: str) -> Blueprint:
    """One of `names`, with the best weights that torchvision publishes for it."""
    weights = get_model_weights(name).DEFAULT
    auxiliary = name in WITH_AUXILIARY_HEADS

    def build(classes: int | None) -> nn.Module:
        sized = {} if classes is None else {"num_classes": classes}
        # They draw their weights slowly and say so, unless told whether to.
        plain = {"init_weights": False, "aux_logits": False} if auxiliary else {}
        module: nn.Module = get_model(name, weights=None, **plain, **sized)
        return module

    def published() -> nn.Module:
        if not _cached(weights.url):
            require_host(weights.url, name)
        try:
            module: nn.Module = get_model(name, weights=weights)
        except (OSError, RuntimeError, EOFError) as error:
            raise not_downloaded(name, error) from error
        if auxiliary:
            module.transform_input = False  # type: ignore[assignment]
        return module

    # Those two undo ImageNet's normalisation inside the module, which then needs no transform.
    own_scale = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if auxiliary else {}
    usage = Usage(
        transform=weights.transforms(**own_scale), labels=tuple(weights.meta["categories"])
    )
    return Blueprint(
        name=name,
        build=build,
        published=published,
        usage=lambda _module: usage,
        training_only=("aux1.", "aux2.", "AuxLogits.") if auxiliary else (),
    )


def _cached(url: str) -> bool:
    """Whether torch has downloaded a file before."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file()
