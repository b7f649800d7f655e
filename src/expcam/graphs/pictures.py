"""Pictures of masks and attributions on the photograph."""

import base64
import io
from dataclasses import replace

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_dilation

from expcam.explain.explanation import Explanation

Picture = npt.NDArray[np.uint8]
OUTLINE = (255, 64, 129)


def outlined(explanation: Explanation) -> Picture:
    """The photograph with the mask's outline; what lies outside is grey and dim."""
    photo, mask = explanation.photo, _fine(explanation.mask, explanation.photo)
    grey = photo.mean(2, keepdims=True) * 0.45 + 90
    shown = np.where(mask[:, :, None], photo, grey).astype(np.uint8)
    shown[_edge(mask, max(1, photo.shape[0] // 224))] = OUTLINE
    return shown


def kept_pixels(explanation: Explanation) -> Picture:
    """What is left for the classifier: the mask's pixels on the mean colour."""
    return _on_mean_colour(explanation, explanation.mask)


def removed_pixels(explanation: Explanation) -> Picture:
    """The opposite: the photograph without the mask's pixels."""
    return _on_mean_colour(explanation, ~explanation.mask)


def heatmap(photo: Picture, attribution: npt.NDArray[np.floating]) -> Picture:
    """An attribution map ``(H, W)`` over the grey photograph; the top percent saturates."""
    low, high = np.quantile(attribution, (0.05, 0.99))
    level = np.clip((attribution - low) / max(high - low, 1e-12), 0, 1)
    size = (photo.shape[1], photo.shape[0])
    fine = np.asarray(
        Image.fromarray((level * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    )
    colour = matplotlib.colormaps["inferno"](fine)[:, :, :3] * 255
    grey = photo.mean(2, keepdims=True)
    weight = 0.35 + 0.4 * (fine[:, :, None] / 255)
    blended: Picture = (colour * weight + grey * (1 - weight)).astype(np.uint8)
    return blended


def outlined_at(
    explanation: Explanation, attribution: npt.NDArray[np.floating], area: float
) -> Picture:
    """The same of the share ``area`` of pixels with the highest attribution."""
    count = max(1, round(area * attribution.size))
    mask = np.zeros(attribution.size, np.bool_)
    mask[np.argsort(-attribution.ravel(), kind="stable")[:count]] = True
    return outlined(replace(explanation, mask=mask.reshape(attribution.shape)))


def small(picture: Picture, side: int) -> Picture:
    """A picture no larger than ``side`` pixels, its proportions kept."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def data_uri(picture: Picture) -> str:
    """A picture as the ``src`` of an HTML image, a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _on_mean_colour(explanation: Explanation, mask: npt.NDArray[np.bool_]) -> Picture:
    fine = _fine(mask, explanation.photo)[:, :, None]
    outside = np.array(explanation.mean_colour, np.uint8)
    shown: Picture = np.where(fine, explanation.photo, outside)
    return shown


def _fine(mask: npt.NDArray[np.bool_], photo: Picture) -> npt.NDArray[np.bool_]:
    """The mask in the photograph's finer pixels."""
    finer = photo.shape[0] // mask.shape[0]
    return mask.repeat(finer, axis=0).repeat(finer, axis=1)


def _edge(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """Pixels outside the mask within ``width`` of it."""
    edge: npt.NDArray[np.bool_] = binary_dilation(mask, iterations=width) & ~mask
    return edge
