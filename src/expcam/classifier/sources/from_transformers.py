"""Image classifiers of Hugging Face's transformers, from its hub or from a folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from expcam.classifier.labels import label_names
from expcam.classifier.sources.blueprint import Blueprint, Usage
from expcam.classifier.sources.hub import not_downloaded, require_host
from expcam.errors import ClassifierError

PATHS = ("/", ".", "~")
"""Beginnings of what is a folder and no repository."""


def blueprint(name: str) -> Blueprint:
    """What `AutoModelForImageClassification` makes of a name or folder, and its processor.

    Args:
        name: A repository such as ``microsoft/resnet-18``, or a folder that `save_pretrained`
            wrote.

    Raises:
        ClassifierError: Transformers is not installed, or nothing is found under the name.
    """
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise ClassifierError(
            f"model `hf/{name}` needs transformers: pip install 'expcam[transformers]'"
        ) from error

    if name.startswith(PATHS) and not Path(name).is_dir():
        raise ClassifierError(f"model `hf/{name}`: no such folder")

    def load(kind: Any, **options: Any) -> Any:
        """From the cache or a folder; from the hub where it is in neither."""
        try:
            return kind.from_pretrained(name, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            if Path(name).is_dir():
                raise _unusable(name, error) from error
        require_host(constants.ENDPOINT, f"hf/{name}")
        try:
            return kind.from_pretrained(name, **options)
        except Exception as error:  # whatever the hub's client raises
            raise not_downloaded(f"hf/{name}", error) from error

    def build(classes: int | None) -> nn.Module:
        sized = {} if classes is None else {"num_labels": classes}
        config = load(AutoConfig, **sized)
        make: Any = AutoModelForImageClassification.from_config
        try:
            module: nn.Module = make(config)
        except ValueError as error:
            raise _unusable(name, error) from error
        return module

    def published() -> nn.Module:
        module: nn.Module = load(AutoModelForImageClassification)
        return module

    def usage(module: nn.Module) -> Usage:
        processor = load(AutoImageProcessor)

        def transform(image: Image.Image) -> Tensor:
            values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
            return values

        config: Any = module.config
        problem = getattr(config, "problem_type", None)
        normalises = getattr(processor, "do_normalize", False)
        return Usage(
            transform=transform,
            labels=label_names(config.id2label),
            mean=processor.image_mean if normalises else (0.0,) * 3,
            std=processor.image_std if normalises else (1.0,) * 3,
            multi_label=None if problem is None else problem == "multi_label_classification",
        )

    return Blueprint(
        name=name.rstrip("/").rpartition("/")[2], build=build, published=published, usage=usage
    )


def _unusable(name: str, error: Exception) -> ClassifierError:
    reason = " ".join(str(error).split())
    return ClassifierError(f"`hf/{name}` is no image classifier of transformers: {reason[:200]}")
