import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import expcam
from expcam.errors import FileFormatError
from tests.helpers import RedDetector, red_square

ARRAYS = ("mask", "probability", "image", "photo", "input")


def test_saved_and_loaded_it_is_the_same(detector: expcam.Classifier, tmp_path: Path) -> None:
    explanation = expcam.explain_image(detector, red_square())
    explanation.save(tmp_path / "e.npz")
    loaded = expcam.Explanation.load(tmp_path / "e.npz")
    for field in fields(expcam.Explanation):
        ours, theirs = getattr(explanation, field.name), getattr(loaded, field.name)
        assert type(ours) is type(theirs)
        assert np.array_equal(ours, theirs), field.name


def test_files_that_are_no_explanations(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        expcam.Explanation.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(FileFormatError, match="not an explanation"):
        expcam.Explanation.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", facts=np.array('{"format": "other/9"}'))
    with pytest.raises(FileFormatError, match="not an explanation"):
        expcam.Explanation.load(tmp_path / "other.npz")


def test_a_file_that_is_not_whole(detector: expcam.Classifier, tmp_path: Path) -> None:
    path = tmp_path / "whole.npz"
    expcam.explain_image(detector, red_square()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="not an explanation"):
        expcam.Explanation.load(path)
    path.write_bytes(whole)
    with np.load(path) as file:
        arrays = dict(file)
    facts = json.loads(str(arrays.pop("facts")))
    del facts["cell"]
    np.savez(path, facts=np.array(json.dumps(facts)), **arrays)
    with pytest.raises(FileFormatError, match="lacks fields"):
        expcam.Explanation.load(path)


def test_the_masked_image_shows_the_mask(detector: expcam.Classifier) -> None:
    explanation = expcam.explain_image(detector, red_square())
    shown = np.asarray(explanation.masked_image(outside=(1, 2, 3)))
    assert (shown[~explanation.mask] == (1, 2, 3)).all()
    assert (shown[explanation.mask] == explanation.image[explanation.mask]).all()


def test_facts_that_are_no_table(tmp_path: Path) -> None:
    for facts in ("[]", "3", '"text"'):
        np.savez(tmp_path / "other.npz", facts=np.array(facts), **dict.fromkeys(ARRAYS, np.ones(1)))
        with pytest.raises(FileFormatError, match="is not an explanation saved by expcam"):
            expcam.Explanation.load(tmp_path / "other.npz")


def test_removed_pixels_have_the_mean_colour_of_the_classifier(tmp_path: Path) -> None:
    dark = expcam.Classifier(
        RedDetector().eval(), lambda image: red_square(), mean=(0.1, 0.2, 0.3), std=(1, 1, 1)
    )
    explanation = expcam.explain_image(dark, red_square())
    shown = np.asarray(explanation.masked_image())
    assert (shown[~explanation.mask] == (26, 51, 76)).all()
    explanation.save(tmp_path / "e.npz")
    assert expcam.Explanation.load(tmp_path / "e.npz").mean_colour == (26, 51, 76)
