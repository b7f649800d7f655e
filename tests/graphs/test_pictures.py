import base64
import dataclasses
import io

import numpy as np
from PIL import Image

import expcam
from expcam.graphs import pictures


def test_kept_and_removed_pixels_make_the_photograph_beside_the_classifiers_mean_colour(
    cat: expcam.Explanation,
) -> None:
    green = dataclasses.replace(cat, mean_colour=(0, 255, 0))
    kept, removed = pictures.kept_pixels(green), pictures.removed_pixels(green)
    is_green = (kept == [0, 255, 0]).all(2)
    assert abs(1 - is_green.mean() - cat.area) < 0.01
    assert np.array_equal(np.where(is_green[:, :, None], removed, kept), cat.photo)


def test_the_outline_lies_around_the_mask(cat: expcam.Explanation) -> None:
    shown = pictures.outlined(cat)
    finer = cat.photo.shape[0] // cat.mask.shape[0]
    fine = cat.mask.repeat(finer, 0).repeat(finer, 1)
    assert np.array_equal(shown[fine], cat.photo[fine])
    edge = (shown == np.array(pictures.OUTLINE)).all(2)
    assert edge.any()
    assert not (edge & fine).any()


def test_a_heatmap_is_brightest_where_the_attribution_is(cat: expcam.Explanation) -> None:
    photo = np.full((8, 8, 3), 100, np.uint8)
    attribution = np.zeros((4, 4))
    attribution[3, 0] = 1
    shown = pictures.heatmap(photo, attribution).sum(2, dtype=int)
    assert np.unravel_index(shown.argmax(), shown.shape)[0] >= 6
    assert pictures.heatmap(photo, np.zeros((4, 4))).shape == photo.shape


def test_a_data_uri_is_an_image(cat: expcam.Explanation) -> None:
    kind, data = pictures.data_uri(cat.photo).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == cat.photo.shape[1::-1]
