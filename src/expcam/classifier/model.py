"""A frozen classifier with its transform and its labels."""

import copy
import difflib
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import center_crop, resize

from expcam.classifier.contrast import Pair
from expcam.classifier.images import ImageSource, open_image
from expcam.errors import ClassifierError, ImageError, TargetError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PHOTO_SIDE = 448
"""Photographs are shown with at least so many pixels a side."""

BATCH = 32
"""Number of perturbed inputs in one pass, where no gradient is needed."""

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An image as a classifier takes it, and as a person sees the same pixels.

    Attributes:
        input: Normalised float tensor ``(3, H, W)`` on the classifier's device.
        picture: The same pixels as uint8 ``(H, W, 3)``.
        photo: The same field of view in finer pixels, uint8 ``(k H, k W, 3)`` with an integer
            ``k``; the picture itself where the transform does not tell its field of view.
        source: Name of the image's file; empty where it was no file.
    """

    input: Tensor
    picture: npt.NDArray[np.uint8]
    photo: npt.NDArray[np.uint8]
    source: str = ""


class Classifier:
    """An image classifier together with what it needs to be used on a photograph.

    Args:
        module: Maps ``(batch, 3, H, W)`` to logits ``(batch, classes)``. It stays yours: it is
            run where it lies, in its own floating dtype and in evaluation mode, and is left as it
            was.
        transform: Maps a PIL image to the normalised tensor ``(3, H, W)``.
        labels: Readable class names in the order of the logits; without them a class is called
            ``class 7``.
        name: What reports call the classifier.
        mean: Per-channel mean that ``transform`` subtracts, to show its output as a picture.
            Taken from torchvision's presets where ``transform`` is one, else ImageNet's.
        std: The same for the standard deviation.
    """

    def __init__(
        self,
        module: nn.Module,
        transform: Transform,
        labels: Sequence[str] | None = None,
        *,
        name: str = "custom",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ClassifierError(f"a classifier is a torch.nn.Module, not {type(module).__name__}")
        preset = transform if isinstance(transform, ImageClassification) else None
        self.module = module
        self.transform = transform
        self.labels = None if labels is None else tuple(labels)
        self.name = name
        self.mean = tuple(mean or (preset.mean if preset else IMAGENET_MEAN))
        self.std = tuple(std or (preset.std if preset else IMAGENET_STD))
        self._pair: Pair | None = None

    @property
    def compares(self) -> bool:
        """Whether it has only two classes to choose from (see `between`)."""
        return self._pair is not None

    @property
    def device(self) -> torch.device:
        """Where the module's weights are."""
        weight = next(_weights(self.module), None)
        return torch.device("cpu") if weight is None else weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the module's weights; `logits` casts images to it."""
        weight = next(_weights(self.module), None)
        return torch.float32 if weight is None else weight.dtype

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour (red, green, blue, 0 to 255) of removed pixels: 0 in normalised space."""
        red, green, blue = self.picture(torch.zeros(3, 1, 1))[0, 0].tolist()
        return red, green, blue

    def prepare(self, image: ImageSource | Tensor | Prepared) -> Prepared:
        """Transform an image for the classifier.

        Args:
            image: A path, PIL image or array (see `open_image`); a float tensor ``(3, H, W)``
                that has been transformed and normalised already; or what this method gave before,
                which is given back as it is.

        Raises:
            ImageError: The image cannot be read, or the tensor does not fit a classifier.
        """
        if isinstance(image, Prepared):
            return image
        photo = None
        if isinstance(image, Tensor):
            x = image.detach()
            if x.ndim != 3 or x.shape[0] != 3 or not x.is_floating_point():
                raise ImageError(
                    f"a tensor image is normalised, float and (3, H, W), not "
                    f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
                )
        else:
            opened = open_image(image)
            x = self.transform(opened)
            if isinstance(self.transform, ImageClassification):
                photo = _field_of_view(opened, self.transform)
        x = x.to(self.device, torch.float32)
        if not torch.isfinite(x).all():
            raise ImageError("the image holds NaN or infinite values")
        picture = self.picture(x)
        return Prepared(
            input=x,
            picture=picture,
            photo=picture if photo is None else photo,
            source=Path(image).name if isinstance(image, str | Path) else "",
        )

    def picture(self, x: Tensor) -> npt.NDArray[np.uint8]:
        """Show a normalised ``(3, H, W)`` tensor as uint8 ``(H, W, 3)``."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        shown: npt.NDArray[np.uint8] = (
            (x.detach().cpu() * std + mean)
            .clamp(0, 1)
            .mul(255)
            .round()
            .byte()
            .permute(1, 2, 0)
            .numpy()
        )
        return shown

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images ``(batch, 3, H, W)``, in their dtype.

        With only two classes to choose from (see `between`) there are two.

        Raises:
            ClassifierError: The module does not give one finite row of logits per image.
        """
        return self.chosen(self.all_logits(x))

    def all_logits(self, x: Tensor) -> Tensor:
        """Like `logits`, but always of all classes."""
        output = self.module(x.to(self.dtype))
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ClassifierError(
                f"classifier `{self.name}` must give logits (batch, classes), it gave {shape}"
            )
        if self.labels is not None and output.shape[1] != len(self.labels):
            raise ClassifierError(
                f"classifier `{self.name}` has {output.shape[1]} outputs "
                f"but {len(self.labels)} labels"
            )
        if not torch.isfinite(output).all():
            raise ClassifierError(f"classifier `{self.name}` gives NaN or infinite logits")
        return output.to(x.dtype)

    def chosen(self, logits: Tensor) -> Tensor:
        """From the logits of all classes, those of the classes that there are to choose from."""
        return logits if self._pair is None else self._pair.logits(logits)

    def with_module(self, module: nn.Module) -> "Classifier":
        """The same classifier with another module in place of its own."""
        other = copy.copy(self)
        other.module = module
        return other

    def between(self, first: int, second: int) -> "Classifier":
        """The same classifier when it has only two classes to choose from; see `Pair.logits`."""
        pair = copy.copy(self)
        pair._pair = Pair(first, second)
        return pair

    def label_name(self, label: int) -> str:
        """The readable name of a class index."""
        return f"class {label}" if self.labels is None else self.labels[label]

    def class_index(self, target: int | str, classes: int) -> int:
        """The index of a class given by number or by name.

        A name is looked for as it is written first, then with upper and lower case alike.

        Args:
            target: An index, the same in digits, or a label.
            classes: How many logits the classifier has.

        Raises:
            TargetError: No such class, or several of that name; the message names the nearest
                labels, or their indices.
        """
        if not isinstance(target, str) or re.fullmatch(r"-?[0-9]+", target.strip()):
            index = int(target) if isinstance(target, str) else operator.index(target)
            if not 0 <= index < classes:
                raise TargetError(
                    f"unknown class {index}: classifier `{self.name}` has classes "
                    f"0 to {classes - 1}"
                )
            return index
        names = [self.label_name(i) for i in range(classes)]
        wanted = target.strip()
        for fold in (str, str.lower):
            found = [i for i, name in enumerate(names) if fold(name) == fold(wanted)]
            if len(found) > 1:
                places = ", ".join(f"{i} (`{names[i]}`)" for i in found)
                raise TargetError(
                    f"classifier `{self.name}` has several classes `{wanted}`: {places}; "
                    "give an index"
                )
            if found:
                return found[0]
        names, wanted = [name.lower() for name in names], wanted.lower()
        near = difflib.get_close_matches(wanted, names, n=3)
        near += [name for name in names if wanted in name and name not in near][: 3 - len(near)]
        hint = f"; did you mean {', '.join(near)}?" if near else "; give its label or its index"
        raise TargetError(f"unknown class `{target}` of classifier `{self.name}`{hint}")


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """Its floating parameters, then its floating buffers."""
    every = itertools.chain(module.parameters(), module.buffers())
    return (each for each in every if each.is_floating_point())


def _field_of_view(image: Image.Image, preset: ImageClassification) -> npt.NDArray[np.uint8]:
    """The part of the photograph that a preset of torchvision's keeps, in finer pixels."""
    finer = math.ceil(PHOTO_SIDE / preset.crop_size[0])
    resized = resize(
        image, [side * finer for side in preset.resize_size], preset.interpolation, antialias=True
    )
    cropped = center_crop(resized, [side * finer for side in preset.crop_size])
    return np.asarray(cropped, dtype=np.uint8)
