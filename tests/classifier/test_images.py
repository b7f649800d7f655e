import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from expcam.classifier.images import file_name, open_image
from expcam.errors import ImageError


def solid(mode: str, colour: object, size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (solid("RGB", (10, 20, 30)), (10, 20, 30)),
        (solid("L", 77), (77, 77, 77)),
        (solid("1", 1), (255, 255, 255)),
        (solid("RGBA", (200, 0, 0, 0)), (255, 255, 255)),
        (solid("RGBA", (200, 0, 0, 255)), (200, 0, 0)),
        (solid("LA", (50, 255)), (50, 50, 50)),
        (solid("CMYK", (0, 0, 0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 32896, np.uint16)), (128, 128, 128)),
        (Image.fromarray(np.full((3, 4), 0.5, np.float32)), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    opened = open_image(image)
    assert opened.mode == "RGB"
    assert opened.size == (4, 3)
    assert opened.getpixel((0, 0)) == expected


def test_a_palette_with_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = solid("P", 0)
    image.putpalette([200, 0, 0])
    image.save(tmp_path / "p.png", transparency=0)
    assert open_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    solid("RGB", "red", (8, 4)).save(tmp_path / "r.jpg", exif=exif)
    assert open_image(tmp_path / "r.jpg").size == (4, 8)


UPSIDE = b"Exif\0\0II*\0\x08\0\0\0\2\0"  # little-endian, two entries from byte 8 on
ORIENTATION = b"\x12\1\3\0\1\0\0\0\6\0\0\0"
RESOLUTION = b"\x1a\1\x0a\0\1\0\0\0\x26\0\0\0"  # of a wrong type, -1 / 0


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (UPSIDE + ORIENTATION + RESOLUTION + bytes(4) + b"\xff" * 4 + bytes(4), (4, 8)),
        (UPSIDE + ORIENTATION, (4, 8)),
        (UPSIDE, (8, 4)),
        (b"Exif\0\0garbage", (8, 4)),
    ],
)
def test_damaged_metadata_are_no_reason_to_refuse_a_picture(
    tmp_path: Path, exif: bytes, size: tuple[int, int]
) -> None:
    solid("RGB", "red", (8, 4)).save(tmp_path / "r.jpg", exif=exif)
    assert open_image(tmp_path / "r.jpg").size == size


def test_every_orientation_is_turned_upright(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40).convert("RGB")
        picture.getexif()[0x0112] = orientation
        picture.save(tmp_path / "o.png", exif=picture.getexif())
        expected = ImageOps.exif_transpose(Image.open(tmp_path / "o.png"))
        assert np.array_equal(open_image(tmp_path / "o.png"), np.asarray(expected))


def test_names_of_files_that_are_no_utf_8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff-cat.png"
    try:
        with open(path, "wb") as file:  # noqa: PTH123
            solid("RGB", "red").save(file, format="PNG")
    except OSError:
        pytest.skip("this file system takes no such names")
    for source in (path, os.fsdecode(path), Path(os.fsdecode(path))):
        assert open_image(source).size == (4, 3)
        assert file_name(source) == "\ufffd-cat.png"
    assert file_name(solid("RGB", "red")) == ""


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_uint8_arrays_come_through_unchanged(
    array: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
) -> None:
    assert np.array_equal(np.asarray(open_image(array)), array)


def test_float_and_grey_arrays() -> None:
    assert open_image(np.full((2, 2), 0.2)).getpixel((0, 0)) == (51, 51, 51)
    assert open_image(np.ones((2, 2, 1), np.uint8)).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\)"),
        (np.full((2, 2, 3), np.nan), "NaN"),
        (np.full((2, 2, 3), 7.0), r"lies in \[0, 1\]"),
        (np.zeros((2, 2, 3), np.int64), "not int64"),
        (np.zeros((0, 2, 3), np.uint8), "not"),
    ],
)
def test_arrays_that_are_no_images(
    array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such file: `.*none\.jpg`"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="not an image file"):
        open_image(tmp_path)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match="not an image"):
        open_image(tmp_path / "text.jpg")
    solid("RGB", "red", (64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    with pytest.raises(ImageError, match="truncated or damaged image"):
        open_image(tmp_path / "half.jpg")
    with pytest.raises(ImageError, match="not int"):
        open_image(3)  # type: ignore[arg-type]
