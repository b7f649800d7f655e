"""Any image a user may hand in, as an upright 8-bit RGB picture."""

import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from expcam.errors import ImageError
from expcam.files import legible

ImageSource = str | bytes | os.PathLike[str] | Image.Image | npt.NDArray[np.generic]

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation what turns an image upright."""


def open_image(source: ImageSource) -> Image.Image:
    """Read an image as RGB: EXIF rotation applied, transparency laid on white, 16 bit scaled.

    Args:
        source: A path, a PIL image, or an array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or
            ``(H, W, 4)`` of uint8, uint16, bool, or float in ``[0, 1]``.

    Raises:
        ImageError: No such file, not an image, a truncated file, or an array that is none.
    """
    with warnings.catch_warnings():
        # Metadata are no reason to refuse a picture, nor to be troubled by it.
        warnings.filterwarnings("ignore", r"(possibly )?corrupt exif", UserWarning)
        return _opened(source)


def _opened(source: ImageSource) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    if not isinstance(source, str | bytes | os.PathLike):
        raise ImageError(
            f"an image is a path, a PIL image, an array or a tensor, not {type(source).__name__}"
        )
    path = Path(os.fsdecode(source))
    if not path.exists():
        raise ImageError(f"no such file: `{path}`")
    if not path.is_file():
        raise ImageError(f"not an image file: `{path}`")
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise ImageError(
            f"not an image: `{path}` (JPEG, PNG, WebP and the other formats of Pillow are read)"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"image too large: `{path}`: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"truncated or damaged image: `{path}`: {error}") from error


def file_name(source: object) -> str:
    """The `legible` name of an image's file; empty for what is no path."""
    if not isinstance(source, str | bytes | os.PathLike):
        return ""
    return legible(Path(os.fsdecode(source)).name)


def _orientation(image: Image.Image) -> int | None:
    """What EXIF says of an image's orientation; None where it is damaged."""
    try:
        orientation: int | None = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises whatever it stumbles over
        return None
    return orientation


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError("the image has no pixels")
    turn = UPRIGHT.get(_orientation(image))  # type: ignore[arg-type]
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):
        image = _scaled_to_8_bit(np.asarray(image), 65535)
    elif image.mode == "F":
        values = np.asarray(image)
        image = _scaled_to_8_bit(values, 1 if values.max(initial=0) <= 1 else 255)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bit(values: npt.NDArray[np.generic], white: float) -> Image.Image:
    scaled = np.clip(values.astype(np.float64) / white, 0, 1) * 255
    return Image.fromarray(scaled.round().astype(np.uint8))


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not is_picture or array.size == 0:
        raise ImageError(
            f"an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {array.shape}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if array.dtype == np.bool_:
        return _scaled_to_8_bit(array, 1)
    if array.dtype == np.uint16:
        return _scaled_to_8_bit(array, 65535)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"an image array holds uint8, uint16, bool or float, not {array.dtype}")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("the image array holds NaN or infinite values")
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            "a float image array lies in [0, 1], "
            f"this one in [{values.min():.3g}, {values.max():.3g}]"
        )
    return _scaled_to_8_bit(values, 1)
