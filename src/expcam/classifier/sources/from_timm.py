"""Timm's classifiers, and what timm knows about the use of one."""

import math
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.data import (
    ImageNetInfo,
    create_transform,
    infer_imagenet_subset,
    resolve_model_data_config,
)
from torch import nn
from torchvision.models import get_model_weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from expcam.classifier.labels import label_names
from expcam.classifier.sources.blueprint import Blueprint, Usage
from expcam.classifier.sources.hub import not_downloaded, require_host
from expcam.classifier.transforms import Transform
from expcam.errors import ClassifierError

HUB = ("hf_hub:", "hf-hub:")
FOLDER = "local-dir:"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def names() -> list[str]:
    """What timm calls its architectures."""
    known: list[str] = timm.list_models()
    return known


def blueprint(name: str) -> Blueprint:
    """One of timm's models.

    Args:
        name: An architecture, perhaps with a tag (``resnet18.a1_in1k``); a repository of Hugging
            Face's hub (``hf_hub:…``), or a folder that timm saved (``local-dir:…``).

    Raises:
        ClassifierError: Timm knows no such tag.
    """
    shown = name if name.startswith(HUB) else f"timm/{name}"
    if not name.startswith((*HUB, FOLDER)):
        try:
            timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:
            raise ClassifierError(f"unknown model `{shown}`: {error}") from error

    def create(*, pretrained: bool, classes: int | None = None) -> nn.Module:
        sized: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        source, options = _located(name, pretrained=pretrained)
        try:
            module: nn.Module = timm.create_model(source, pretrained=pretrained, **options, **sized)
        except Exception as error:  # whatever the hub's client raises, or timm on a folder
            if name.startswith(FOLDER):
                raise ClassifierError(f"cannot load model `{shown}`: {error}") from error
            raise not_downloaded(shown, error) from error
        return module

    return Blueprint(
        name=name,
        build=lambda classes: create(pretrained=False, classes=classes),
        published=lambda: create(pretrained=True),
        usage=usage,
    )


def usage(module: nn.Module) -> Usage:
    """How a module of timm's is used, by its own configuration."""
    config: dict[str, Any] = resolve_model_data_config(module)
    return Usage(
        transform=_transform(config),
        labels=_labels(module),
        mean=config["mean"],
        std=config["std"],
    )


def _located(name: str, *, pretrained: bool) -> tuple[str, dict[str, Any]]:
    """Under which name and with which options timm finds its files, here where they are cached."""
    if name.startswith(HUB):
        repository = name.split(":", 1)[1]
        settings = _cached(repository, "config.json")
        weights = [_cached(repository, each) for each in WEIGHTS_FILES]
        if settings and (any(weights) or not pretrained):
            return f"{FOLDER}{settings.parent}", {}
        require_host(constants.ENDPOINT, name)
    elif pretrained and not name.startswith(FOLDER):
        config = timm.get_pretrained_cfg(name)
        if config is not None and config.hf_hub_id and not config.custom_load:
            found = _cached(config.hf_hub_id, config.hf_hub_filename or WEIGHTS_FILES[0])
            if found:
                return name, {"pretrained_cfg_overlay": {"file": str(found)}}
            require_host(constants.ENDPOINT, f"timm/{name}")
    return name, {}


def _cached(repository: str, file: str) -> Path | None:
    """Where a file of a repository lies in the hub's cache."""
    path, _, revision = repository.partition("@")
    found = try_to_load_from_cache(path, file, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def _transform(config: dict[str, Any]) -> Transform:
    """The transform of a data configuration, as a preset of torchvision's where it is one.

    A preset tells its field of view, and with it what a page shows of the photograph.
    """
    _, height, width = config["input_size"]
    if config["crop_mode"] == "center" and height == width:
        preset: Transform = ImageClassification(
            crop_size=height,
            resize_size=math.floor(height / config["crop_pct"]),
            mean=config["mean"],
            std=config["std"],
            interpolation=InterpolationMode(config["interpolation"]),
        )
        return preset
    made: Transform = create_transform(**config)
    return made


def _labels(module: nn.Module) -> tuple[str, ...] | None:
    """The names that the configuration has; else those of the part of ImageNet of its size."""
    config: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    if config.get("label_names"):
        described = config.get("label_descriptions") or {}
        return tuple(described.get(each, each) for each in label_names(config["label_names"]))
    subset = infer_imagenet_subset(module)
    if subset is None:
        return None
    if subset == "imagenet-1k":  # the same names as torchvision's classifiers have
        return tuple(get_model_weights("resnet18").DEFAULT.meta["categories"])
    return tuple(each.split(", ")[0] for each in ImageNetInfo(subset).label_descriptions())
