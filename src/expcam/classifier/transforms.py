"""What a transform gives, as a tensor of channels; and what its numbers look like."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, v2
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import center_crop, resize

from expcam.errors import ImageError

Transform = Callable[..., Any]
"""Maps a PIL image to its normalised tensor ``(channels, H, W)``; or to a batch of one, an array,
or a dictionary with one of them (see `transformed`)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PHOTO_SIDE = 448
"""Photographs are shown with at least so many pixels a side."""

KEYS = ("pixel_values", "image", "images", "input", "inputs", "x")
"""What the image is called in a dictionary that a transform gives, the surest name first."""
CHANNELS_LAST = (1, 3, 4)
"""An array with so many columns in its last dimension alone has its channels there."""


def transformed(transform: Transform, image: Image.Image) -> Tensor:
    """The tensor ``(channels, H, W)`` that a transform makes of an image.

    Transforms of albumentations take and give arrays by name; those of transformers give
    dictionaries of batches.

    Raises:
        ImageError: It fails, or gives something else.
    """
    by_name = type(transform).__module__.partition(".")[0] == "albumentations"
    try:
        given = transform(image=np.asarray(image)) if by_name else transform(image)
    except Exception as error:  # whatever a transform raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"the transform fails on the image ({image.mode}): {reason}") from error
    return as_channels(given)


def as_channels(given: object) -> Tensor:
    """A tensor, an array, a batch of one or a dictionary of one, as ``(channels, H, W)``.

    Raises:
        ImageError: It is none of these.
    """
    found = given
    if isinstance(found, Mapping):
        named = [found[key] for key in KEYS if key in found] or list(found.values())
        found = named[0] if named else None
    if isinstance(found, list | tuple) and len(found) == 1:
        (found,) = found
    if isinstance(found, np.ndarray) and found.dtype.kind in "fiub":
        last = found.ndim == 3 and found.shape[2] in CHANNELS_LAST
        if last and found.shape[0] not in CHANNELS_LAST:
            found = found.transpose(2, 0, 1)
        found = torch.from_numpy(np.ascontiguousarray(found))
    if isinstance(found, Tensor) and found.ndim == 4 and len(found) == 1:
        found = found[0]
    if isinstance(found, Tensor) and found.ndim == 2:
        found = found[None]
    if not isinstance(found, Tensor) or found.ndim != 3:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ImageError(f"the transform must give a tensor (channels, H, W), it gave {what}")
    return found


@dataclass(frozen=True)
class Normalisation:
    """What the numbers of an image mean as colours.

    Attributes:
        mean: What was subtracted of each channel's share of white; of an image with another
            number of channels nobody knows, and its own range is shown.
        std: What it was divided by then.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def picture(self, x: Tensor) -> npt.NDArray[np.uint8]:
        """Show a normalised ``(channels, H, W)`` tensor as uint8 ``(H, W, 3)``.

        Of more than three channels the first three are shown as red, green and blue; of two their
        mean.
        """
        return self._shown(x, x)

    def colour_of_zero(self, x: Tensor) -> tuple[int, int, int]:
        """What 0 in normalised space looks like beside an image, 0 to 255."""
        red, green, blue = self._shown(torch.zeros_like(x[:, :1, :1]), x)[0, 0].tolist()
        return red, green, blue

    def _shown(self, x: Tensor, beside: Tensor) -> npt.NDArray[np.uint8]:
        x, beside = x.detach().float().cpu(), beside.detach().float().cpu()
        if not {len(self.mean), len(self.std)} <= {1, len(x)}:
            low, high = min(0.0, float(beside.min())), max(0.0, float(beside.max()))
            x = (x - low) / (high - low or 1.0)
        else:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
            x = x * std + mean
        x = x[:3] if len(x) > 2 else x.mean(0, keepdim=True).expand(3, -1, -1)
        shown: npt.NDArray[np.uint8] = (
            x.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy().copy()
        )
        return shown


def normalisation_of(
    transform: Transform | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalisation:
    """The normalisation that is stated, else that of the transform, else ImageNet's."""
    known_mean, known_std = next(_stated(transform), (IMAGENET_MEAN, IMAGENET_STD))
    if mean is None:
        mean = known_mean if std is None or len(std) == len(known_mean) else (0.0,)
    if std is None:
        std = known_std if len(mean) == len(known_std) else (1.0,)
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def _stated(transform: object) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Mean and standard deviation of the steps of a transform that normalise."""
    if isinstance(transform, ImageClassification | Normalize | v2.Normalize):
        yield transform.mean, transform.std
    if isinstance(transform, Compose | v2.Compose):
        for step in transform.transforms:
            yield from _stated(step)
    processor = getattr(transform, "image_mean", None), getattr(transform, "image_std", None)
    if processor[0] is not None and processor[1] is not None:  # of transformers
        yield processor[0], processor[1]


def field_of_view(image: Image.Image, transform: Transform) -> npt.NDArray[np.uint8] | None:
    """The part of the photograph that a transform keeps, in finer pixels.

    None where it does not tell: only presets of torchvision's do.
    """
    if not isinstance(transform, ImageClassification):
        return None
    finer = math.ceil(PHOTO_SIDE / transform.crop_size[0])
    resized = resize(
        image,
        [side * finer for side in transform.resize_size],
        transform.interpolation,
        antialias=True,
    )
    cropped = center_crop(resized, [side * finer for side in transform.crop_size])
    return np.asarray(cropped, dtype=np.uint8)
