"""Load a classifier: by name, from a function of yours, or around a module."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms._presets import ImageClassification

from expcam.classifier.labels import Labels, label_names
from expcam.classifier.model import Classifier
from expcam.classifier.sources import DEFAULT, from_timm
from expcam.classifier.sources.blueprint import Blueprint, Usage
from expcam.classifier.sources.checkpoints import fit_weights, other_head, read_checkpoint
from expcam.classifier.sources.from_function import REFERENCE, called
from expcam.classifier.sources.label_files import read_labels
from expcam.classifier.sources.names import blueprint_of
from expcam.classifier.transforms import Transform
from expcam.errors import ClassifierError

PUBLISHED = "default"


def load_classifier(
    model: str | nn.Module = DEFAULT,
    weights: str | Path | None = PUBLISHED,
    *,
    transform: Transform | None = None,
    labels: Labels | str | Path | None = None,
    device: str | torch.device | None = None,
    multi_label: bool | None = None,
) -> Classifier:
    """Load a classifier, ready to be explained.

    Args:
        model: ``"efficientnet_lite0"``, which needs no network; ``"bundled"``, a small one for
            tests and teaching; the name of one of torchvision's classifiers; ``"timm/NAME"``,
            or ``"hf_hub:…"``, for one of timm's; ``"hf/NAME-OR-FOLDER"`` for one of Hugging
            Face's transformers; ``"package.module:function"`` for what a function of yours
            returns, a module or a `Classifier`; or your own module.
        weights: ``"default"`` for those that were published, or those that your module has; the
            path of a file that `torch.save` wrote or of safetensors: a state dict, or a training
            checkpoint with one. Of a model by name the head gets as many classes as the file
            has. None for random weights.
        transform: Maps a PIL image to the normalised tensor ``(channels, H, W)``; where None, the
            one that is published for the model, and for your own module that of its timm
            configuration, else ImageNet's with 224 pixels.
        labels: Class names in the order of the logits, or a file of them (see `read_labels`);
            where None, the model's published ones.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``…; where None, the best one there is. Your own
            module stays where it is, unless you name a device: then it is moved there.
        multi_label: Whether each class is a finding by itself; None to find out, unless the model
            has its published weights (see `Classifier`).

    Raises:
        ClassifierError: Unknown model, weights that cannot be had, read or fitted, labels that
            are not as many as the classes, no such device.
    """
    place = resolve_device(device)
    names = read_labels(labels) if isinstance(labels, str | Path) else labels
    names = None if names is None else label_names(names)
    if isinstance(model, str) and not REFERENCE.fullmatch(model):
        return _by_name(blueprint_of(model), weights, transform, names, place, multi_label)
    made = called(model) if isinstance(model, str) else model
    module = made.module if isinstance(made, Classifier) else made
    if weights is not None and weights != PUBLISHED:
        fit_weights(module, weights, type(module).__name__)
    if device is not None:
        module.to(place)
    if isinstance(made, Classifier):
        if transform is not None or names is not None:
            raise ClassifierError(
                f"`{model}` gives a classifier with its transform and labels: give none beside it"
            )
        return made
    usage = (
        from_timm.usage(module)
        if hasattr(module, "pretrained_cfg")
        else Usage(transform=ImageClassification(crop_size=224))
    )
    return _used(module, usage, transform, names, type(module).__name__, multi_label)


def _by_name(
    blueprint: Blueprint,
    weights: str | Path | None,
    transform: Transform | None,
    names: Sequence[str] | None,
    place: torch.device,
    multi_label: bool | None,
) -> Classifier:
    classes: int | None = None
    if weights == PUBLISHED:
        module = blueprint.published()
    elif weights is None:
        classes = None if names is None else len(names)
        module = blueprint.build(classes)
    else:
        module, classes = _with_weights(blueprint, weights)
    usage = blueprint.usage(module)
    if classes is not None:  # not those that the published labels name
        usage = replace(usage, labels=None)
    if weights == PUBLISHED and usage.multi_label is None:
        usage = replace(usage, multi_label=False)  # what is published has one class an image
    known = classes if usage.labels is None else len(usage.labels)
    if names is not None and known is not None and len(names) != known:
        raise ClassifierError(f"model `{blueprint.name}` has {known} classes, not {len(names)}")
    # Convolutions of small batches are faster with channels last.
    module = module.to(memory_format=torch.channels_last).eval().to(place)
    return _used(module, usage, transform, names, blueprint.name, multi_label)


def _with_weights(blueprint: Blueprint, path: str | Path) -> tuple[nn.Module, int | None]:
    """The module with weights from a file, and its number of classes where it is another."""
    checkpoint = read_checkpoint(path)
    module = blueprint.build(None)
    tensors = checkpoint.fitting(module, blueprint.name, blueprint.training_only)
    classes = other_head(module, tensors)
    if classes is not None:
        module = blueprint.build(classes)
    checkpoint.load_into(module, tensors, blueprint.name)
    return module, classes


def _used(
    module: nn.Module,
    usage: Usage,
    transform: Transform | None,
    names: Sequence[str] | None,
    name: str,
    multi_label: bool | None,
) -> Classifier:
    """A classifier with the transform and the labels that were asked for, or the usual ones."""
    return Classifier(
        module,
        transform or usage.transform,
        names or usage.labels,
        name=name,
        mean=usage.mean if transform is None else None,
        std=usage.std if transform is None else None,
        multi_label=usage.multi_label if multi_label is None else multi_label,
    )


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best one there is.

    Raises:
        ClassifierError: There is no such device on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device is None:
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    absent = place is None or not available.get(place.type, False)
    if place is not None and place.type == "cuda" and not absent:
        absent = (place.index or 0) >= torch.cuda.device_count()
    if place is None or absent:
        here = ", ".join(kind for kind, there in available.items() if there)
        raise ClassifierError(f"no device `{device}` on this machine; it has: {here}")
    return place
