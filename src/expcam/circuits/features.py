"""What a channel responds to: where it fires in an image, and which images drive it most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expcam.circuits.formats import Node
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.recording import Recording, record
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.errors import OptionError
from expcam.progress import Progress, silent

INSIDE = 0.9
"""A crop holds this share of the absolute gradient of the channel's strongest activation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Crop:
    """The part of an image that drives a channel most.

    Attributes:
        image: Place of the image in the sequence that was given.
        activation: The channel's activation at its strongest place.
        box: Left, top, right, bottom in pixels of the classifier's input.
        picture: The crop, uint8 ``(h, w, 3)``, in the finer pixels of the photograph.
        fires: The channel's activation there, as a share of its strongest, float32 ``(h, w)``.
    """

    image: int
    activation: float
    box: tuple[int, int, int, int]
    picture: npt.NDArray[np.uint8]
    fires: npt.NDArray[np.float32]


def activation_map(
    classifier: Classifier, image: ImageSource | Tensor, node: Node
) -> npt.NDArray[np.float32]:
    """Where in an image a channel fires.

    Args:
        classifier: It is left as it was found.
        image: As for `explain_image`; for the map on an explanation give its masked image.
        node: Layer name and channel, like the keys of a circuit's nodes.

    Returns:
        Its activation, bilinearly upsampled to the classifier's input, ``(H, W)``. Of a
        transformer's neuron the map over patches, without class tokens; of a head the mean
        absolute output.

    Raises:
        OptionError: No such layer or channel, or it has no map.
        ClassifierError: The readout cannot follow the classifier, or it is called inside
            ``torch.inference_mode()``.
    """
    require_autograd("activation_map")
    x = classifier.prepare(image).input
    with frozen(classifier.network) as module, torch.no_grad():
        return _upsampled(plane_or_error(record(module, x[None]), node), x)


def top_crops(
    classifier: Classifier,
    node: Node,
    images: Sequence[ImageSource | Tensor],
    *,
    count: int = 9,
    progress: Progress = silent,
) -> list[Crop]:
    """The crops that drive a channel most, at most one from each image.

    A crop is the smallest rectangle around the channel's strongest place that holds 90 % of the
    absolute gradient of its activation there by the image: what the channel looks at.

    Args:
        classifier: It is left as it was found.
        node: Layer name and channel.
        images: As for `explain_image`.
        count: How many crops.
        progress: Called after each image.

    Returns:
        The strongest first.

    Raises:
        OptionError: No images, or no such layer or channel, or it has no map.
        ClassifierError: As for `activation_map`.
    """
    return top_crops_of(classifier, [node], images, count=count, progress=progress)[node]


def top_crops_of(
    classifier: Classifier,
    nodes: Sequence[Node],
    images: Sequence[ImageSource | Tensor],
    *,
    count: int = 9,
    progress: Progress = silent,
) -> dict[Node, list[Crop]]:
    """The same for several channels at once; each image is run twice at most.

    Channels, and for the rest see `top_crops`.
    """
    require_autograd("top_crops")
    if not images or count < 1:
        raise OptionError("top_crops needs at least one image and a count of at least 1")
    strongest = torch.zeros(len(nodes), len(images))
    found: dict[Node, list[Crop]] = {node: [] for node in nodes}
    with frozen(classifier.network) as module:
        with torch.no_grad():
            for place, image in enumerate(images):
                recording = record(module, classifier.prepare(image).input[None])
                for row, node in enumerate(nodes):
                    strongest[row, place] = plane_or_error(recording, node).max()
                progress("images", place + 1, len(images))
        best = strongest.topk(min(count, len(images)), dim=1).indices.tolist()
        for place, image in enumerate(images):
            wanted = [node for node, places in zip(nodes, best, strict=True) if place in places]
            if wanted:
                for node, crop in _crops(classifier, module, image, place, wanted):
                    found[node].append(crop)
    return {node: sorted(crops, key=lambda c: -c.activation) for node, crops in found.items()}


def _crops(
    classifier: Classifier,
    module: nn.Module,
    image: ImageSource | Tensor,
    place: int,
    nodes: Sequence[Node],
) -> Iterator[tuple[Node, Crop]]:
    """What each channel looks at in one image."""
    prepared = classifier.prepare(image)
    x = prepared.input[None].detach().requires_grad_()
    finer = prepared.photo.shape[0] // x.shape[2]
    with torch.enable_grad():
        recording = record(module, x)
        for node in nodes:
            plane = plane_or_error(recording, node)
            peak = plane.flatten()[plane.argmax()]
            (gradient,) = torch.autograd.grad(peak, x, retain_graph=True)
            box = _box(gradient[0].abs().sum(0))
            left, top, right, bottom = (finer * side for side in box)
            fires = _upsampled(plane.detach(), x[0])
            fires = fires.repeat(finer, axis=0).repeat(finer, axis=1)[top:bottom, left:right]
            yield (
                node,
                Crop(
                    image=place,
                    activation=float(peak.detach()),
                    box=box,
                    picture=prepared.photo[top:bottom, left:right].copy(),
                    fires=fires / max(float(peak.detach()), 1e-12),
                ),
            )


def _upsampled(plane: Tensor, x: Tensor) -> npt.NDArray[np.float32]:
    fine = F.interpolate(plane[None, None].float(), x.shape[1:], mode="bilinear")
    found: npt.NDArray[np.float32] = fine[0, 0].cpu().numpy()
    return found


def plane_or_error(recording: Recording, node: Node) -> Tensor:
    """A channel's activation over the image, ``(h, w)``; `OptionError` where it has none."""
    plane = plane_of(recording, node)
    if plane is None:
        raise OptionError(f"channel {node[1]} of layer `{node[0]}` has no map over the image")
    return plane


def plane_of(recording: Recording, node: Node) -> Tensor | None:
    """A channel's activation over the image, ``(h, w)``; None where it has no such map."""
    name, channel = node
    layer = recording.layers.get(name)
    if layer is None:
        raise OptionError(f"no layer `{name}`; there are: {', '.join(recording.layers)}")
    if not 0 <= channel < layer.channels:
        raise OptionError(
            f"layer `{name}` has no channel {channel}: it has 0 to {layer.channels - 1}"
        )
    row = layer.rows(recording.activations[name])[channel]
    wiring = recording.wiring
    if wiring.steps[wiring.sites[name].node].kind is Kind.ATTENTION:  # a head: its features' mean
        row = row.abs().mean(-1)
    if row.ndim == 3 and len(row) == 1:
        return row[0]
    tokens = row.flatten()
    side = int(len(tokens) ** 0.5)
    # Class tokens come first.
    if side > 1 and 0 <= len(tokens) - side * side <= 1 and row.ndim == 2 and len(row) == 1:
        return tokens[len(tokens) - side * side :].view(side, side)
    return None


def _box(strength: Tensor) -> tuple[int, int, int, int]:
    """The rectangle that holds ``INSIDE`` of a map; the same share is cut off on each side."""
    sides = []
    for dim in (0, 1):
        held = strength.sum(dim).cumsum(0) / strength.sum().clamp(min=1e-30)
        margin = (1 - INSIDE) / 4
        sides.append((int((held < margin).sum()), int((held < 1 - margin).sum()) + 1))
    (left, right), (top, bottom) = sides
    height, width = strength.shape
    return left, top, min(right, width), min(bottom, height)
