"""A frozen classifier with its transform and its labels."""

import copy
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from expcam.classifier.choices import LEADING, Finding, Group, Pair
from expcam.classifier.images import ImageSource, file_name, open_image
from expcam.classifier.labels import Labels, find_class, find_classes, label_names
from expcam.classifier.network import (
    Reader,
    check_initialised,
    is_scripted,
    network_of,
    unwrapped,
)
from expcam.classifier.outputs import SIGMOID, SOFTMAX
from expcam.classifier.transforms import (
    Transform,
    as_channels,
    field_of_view,
    normalisation_of,
    transformed,
)
from expcam.errors import ClassifierError, ExpcamWarning, ImageError

BATCH = 32
"""Number of perturbed inputs in one pass, where no gradient is needed."""
BATCH_ON_CPU = 4
"""The same on a CPU where the inputs differ in their channels only. Large activations are given
back to the system after each operation, and its pages are cleared anew: of 32 images of 224² that
takes as long as the arithmetic, of 4 hardly any time."""

SILENT = -0.5
"""Independent classes all have logits below this on an image without content; classes of which
always one is said have logits around 0 there, for softmax trains their differences alone."""
FEW = 200
"""Only with so few classes they are looked at in this way: larger sets are of one class each,
whatever loss a network was trained with."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An image as a classifier takes it, and as a person sees the same pixels.

    Attributes:
        input: Normalised float tensor ``(channels, H, W)`` on the classifier's device.
        picture: The same pixels as uint8 ``(H, W, 3)``.
        photo: The same field of view in finer pixels, uint8 ``(k H, k W, 3)`` with an integer
            ``k``; the picture itself where the transform does not tell its field of view.
        mean_colour: What removed pixels look like, 0 in normalised space: red, green, blue.
        source: Name of the image's file; empty where it was no file.
    """

    input: Tensor
    picture: npt.NDArray[np.uint8]
    photo: npt.NDArray[np.uint8]
    mean_colour: tuple[int, int, int]
    source: str = ""


class Classifier:
    """An image classifier together with what it needs to be used on a photograph.

    Args:
        module: Maps ``(batch, channels, H, W)`` to logits ``(batch, classes)``, or to a tuple, a
            dictionary or an object that has them; to probabilities or their logarithms, if a
            softmax or a sigmoid comes last; or to one logit for each image, which is taken for
            two classes, no and yes. It stays yours: it is run where it lies, in its own floating
            dtype and in evaluation mode, and is left as it was.
        transform: Maps a PIL image to the normalised tensor ``(channels, H, W)``; to a batch of
            one, an array or a dictionary with one of them. None where images are such tensors.
        labels: Readable class names in the order of the logits, or by index, or indices by name;
            without them a class is called ``class 7``. Of one logit the name of what it speaks
            for, or of no and yes.
        name: What reports call the classifier.
        mean: Per-channel mean that ``transform`` subtracts, to show its output as a picture.
            Taken from ``transform`` where it tells, else ImageNet's.
        std: The same for the standard deviation.
        multi_label: Whether each class is a finding by itself, there where its logit is positive,
            with the sigmoid of it as probability. None to find out: where a sigmoid comes last,
            or where none of a few classes is said of an image without content (it warns then).

    Raises:
        ClassifierError: No module, one without weights yet, or labels that are none.
    """

    def __init__(
        self,
        module: nn.Module,
        transform: Transform | None = None,
        labels: Labels | None = None,
        *,
        name: str = "custom",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        multi_label: bool | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ClassifierError(f"a classifier is a torch.nn.Module, not {type(module).__name__}")
        check_initialised(module, name)
        self.module = module
        self.transform = transform
        self.name = name
        self._labels = None if labels is None else label_names(labels)
        self._normalisation = normalisation_of(transform, mean, std)
        self._multi_label = multi_label
        self._finds: bool | None = None
        self._choice: Pair | Finding | Group | None = None
        self._run_by(module)

    def _run_by(self, module: nn.Module) -> None:
        self._reader = Reader(self.name, None if self._labels is None else len(self._labels))
        self._network = network_of(unwrapped(module), self._reader)

    @property
    def network(self) -> nn.Module:
        """The module behind wrappers, which gives plain logits: its layers can be followed.

        It shares names, weights and state with the module.

        Raises:
            ClassifierError: There are no layers in Python.
        """
        if is_scripted(unwrapped(self.module)):
            raise ClassifierError(
                f"classifier `{self.name}` is a TorchScript module, whose layers cannot be "
                "followed: it has masks but no circuit; bring the module that was scripted"
            )
        return self._network

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the logits, if there are any."""
        if not self._reader.one_logit:
            return self._labels
        names = self._labels or ("no", "yes")
        return names if len(names) > 1 else (f"not {names[0]}", names[0])

    @property
    def compares(self) -> bool:
        """Whether it takes one decision only (see `deciding`)."""
        return self._choice is not None

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

    def prepare(self, image: ImageSource | Tensor | Prepared) -> Prepared:
        """Transform an image for the classifier.

        Args:
            image: A path, PIL image or array (see `open_image`); a float tensor
                ``(channels, H, W)`` that has been transformed and normalised already; or what
                this method gave before, which is given back as it is. Without a transform an
                array is taken for such a tensor.

        Raises:
            ImageError: The image cannot be read or transformed, or the tensor is no image.
        """
        if isinstance(image, Prepared):
            return image
        photo = None
        if isinstance(image, Tensor):
            x = image.detach()
            if x.ndim != 3 or x.numel() == 0 or not x.is_floating_point():
                raise ImageError(
                    f"a tensor image is normalised, float and (channels, H, W), not "
                    f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
                )
        elif self.transform is not None:
            opened = open_image(image)
            x = self._transformed(self.transform, opened)
            photo = field_of_view(opened, self.transform)
        elif isinstance(image, np.ndarray):
            x = as_channels(image)
        else:
            raise ImageError(
                f"classifier `{self.name}` has no transform, so it takes normalised tensors "
                f"(channels, H, W), not {type(image).__name__}; give it one"
            )
        x = x.to(self.device, torch.float32)
        if not torch.isfinite(x).all():
            raise ImageError("the image holds NaN or infinite values")
        picture = self.picture(x)
        return Prepared(
            input=x,
            picture=picture,
            photo=picture if photo is None else photo,
            mean_colour=self._normalisation.colour_of_zero(x),
            source=file_name(image),
        )

    def _transformed(self, transform: Transform, image: Image.Image) -> Tensor:
        x = transformed(transform, image)
        first = next((each for each in self.module.modules() if isinstance(each, nn.Conv2d)), None)
        if first is not None and first.in_channels == 1 and len(x) == 3:
            return transformed(transform, image.convert("L"))  # it is for grey images
        return x

    def picture(self, x: Tensor) -> npt.NDArray[np.uint8]:
        """Show a normalised ``(channels, H, W)`` tensor as uint8 ``(H, W, 3)``."""
        return self._normalisation.picture(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images ``(batch, channels, H, W)``.

        They have the images' dtype. Where it takes one decision only (see `deciding`) they are
        of what there is to choose from.

        Raises:
            ClassifierError: The module does not give one finite row of logits per image.
        """
        return self.chosen(self.all_logits(x))

    def all_logits(self, x: Tensor) -> Tensor:
        """Like `logits`, but always of all classes."""
        output: Tensor = self._network(x.to(self.dtype))
        if len(output) != len(x):
            raise ClassifierError(
                f"classifier `{self.name}` must give logits (batch, classes), it gave "
                f"{tuple(output.shape)} for a batch of {len(x)}"
            )
        if self.labels is not None and output.shape[1] != len(self.labels):
            outputs = "one logit, so 2 classes," if self._reader.one_logit else "outputs"
            count = "" if self._reader.one_logit else f"{output.shape[1]} "
            raise ClassifierError(
                f"classifier `{self.name}` has {count}{outputs} but {len(self.labels)} labels"
            )
        if not torch.isfinite(output).all():
            narrow = " in float16; try it in float32" if self.dtype == torch.float16 else ""
            raise ClassifierError(f"classifier `{self.name}` gives NaN or infinite logits{narrow}")
        return output.to(x.dtype)

    def chosen(self, logits: Tensor) -> Tensor:
        """From the logits of all classes, those that there are to choose from."""
        return logits if self._choice is None else self._choice.logits(logits)

    def is_multi_label(self, x: Tensor) -> bool:
        """Whether each class is a finding by itself, rather than one of several to be said.

        Where it was not stated and no softmax or sigmoid tells, that takes a forward pass, once.

        Args:
            x: A normalised image ``(channels, H, W)``; its content does not matter.

        Raises:
            ClassifierError: It was stated, but a softmax comes last.
        """
        known = self._known_multi_label()
        if known is not None:
            return known
        with torch.no_grad():
            blank = self.all_logits(torch.zeros_like(x)[None])[0]
        known = self._known_multi_label()
        if known is not None:
            return known
        self._finds = len(blank) <= FEW and float(blank.max()) < SILENT
        if self._finds:
            warnings.warn(
                f"classifier `{self.name}` says none of its classes of an image without content: "
                "they are taken for findings, each with a sigmoid of its own; give it "
                "multi_label=True or False to say what they are",
                ExpcamWarning,
                stacklevel=2,
            )
        return self._finds

    def _known_multi_label(self) -> bool | None:
        stated, ending = self._multi_label, self._reader.ending
        if self._reader.one_logit:
            return False
        if stated and ending == SOFTMAX:
            raise ClassifierError(
                f"classifier `{self.name}` cannot be multi-label: it ends in a softmax"
            )
        if stated is not None or ending == SIGMOID:
            return stated is not False
        many = self._labels is not None and len(self._labels) > FEW
        return False if many or ending == SOFTMAX else self._finds

    def with_module(self, module: nn.Module) -> "Classifier":
        """The same classifier with another module in place of its own."""
        other = copy.copy(self)
        other.module, other._labels = module, self.labels
        other._run_by(module)
        return other

    def between(self, first: int, second: int) -> "Classifier":
        """The same classifier when it has only two classes to choose from; see `Pair.logits`."""
        return self._with(Pair(first, second))

    def deciding(
        self,
        label: int,
        contrast: int | None = None,
        group: Sequence[int] = (),
        *,
        multi_label: bool,
    ) -> tuple["Classifier", int]:
        """The classifier that has one decision to take, and the place of the class in its logits.

        With a ``contrast`` it has only the two classes to choose from; of a ``multi_label`` one
        only yes and no. The logit of the class then stands at index `LEADING`. A ``group`` stands
        first, all other classes behind it.

        Args:
            label: Index of the class.
            contrast: Index of the only one that it is compared to; None for no such one.
            group: Indices of the classes that count as one, ``label`` among them; empty for none.
            multi_label: See `is_multi_label`.
        """
        if contrast is not None:
            return self.between(label, contrast), LEADING
        if group:
            return self._with(Group(tuple(group))), 0
        if multi_label:
            return self._with(Finding(label)), LEADING
        return self, label

    def _with(self, choice: Pair | Finding | Group) -> "Classifier":
        other = copy.copy(self)
        other._choice = choice
        return other

    def label_name(self, label: int) -> str:
        """The readable name of a class index."""
        return f"class {label}" if self.labels is None else self.labels[label]

    def class_index(self, target: object, classes: int) -> int:
        """The index of a class given by number or by name (see `find_class`).

        Args:
            target: An index, the same in digits, or a label.
            classes: How many logits the classifier has.

        Raises:
            TargetError: No such class, or several of that name.
        """
        return find_class(target, self._names(classes), self.name)

    def class_indices(self, target: object, classes: int) -> tuple[int, ...]:
        """The indices of one class, or of several that are given as a list or with commas.

        Args:
            target: As for `class_index`; a list of such; or labels with commas between them,
                where all of it is not itself a label.
            classes: How many logits the classifier has.

        Raises:
            TargetError: No such class, several of that name, one given twice, or an empty list.
        """
        return find_classes(target, self._names(classes), self.name)

    def _names(self, classes: int) -> list[str]:
        return [self.label_name(i) for i in range(classes)]


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """Its floating parameters, then its floating buffers."""
    every = itertools.chain(module.parameters(), module.buffers())
    return (each for each in every if each.is_floating_point())
