"""Collages of photographs whose objects are known: where each lies, and of which class it is.

A collage has two or three pictures of Tiny ImageNet in a row. Only such are taken as the
classifier can be asked about: it says the class of the first picture of the whole, and also of
each picture of that class where all others are strongly blurred. A single photograph is whatever
the classifier says of it.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from torch import Tensor

import expcam

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""
TINY = 64
"""Pixels a side in Tiny ImageNet."""
BLUR = 5
"""The standard deviation of a strong blur is one such part of the side."""


@dataclass(frozen=True, eq=False)
class Collage:
    """What a classifier is asked about.

    Attributes:
        x: Normalised image ``(3, H, W)``.
        label: The class whose objects are asked for.
        boxes: Where the objects of that class lie.
        kind: ``one class``, ``different classes`` or ``single``.
        pictures: How many pictures there are.
    """

    x: Tensor
    label: int
    boxes: list[Box]
    kind: str
    pictures: int


def tiny_images(file: Path) -> pd.DataFrame:
    """Rows of a file of Tiny ImageNet: ``wnid``, ``bbox``, ``image``."""
    return pd.read_parquet(file)


CLASSES, EACH, MOST = 40, 12, 3
"""Classes, at random, the pictures of each that are tried, and how many must be recognised."""


class Maker:
    """Draws collages for a classifier.

    Args:
        classifier: Frozen by the caller.
        side: Of a picture in pixels.
        rows: Of Tiny ImageNet, those whose class it knows, with their ``label`` there.
        rng: Draws everything.
    """

    def __init__(
        self,
        classifier: expcam.Classifier,
        side: int,
        rows: pd.DataFrame,
        rng: np.random.Generator,
    ) -> None:
        self.classifier, self.side, self.rng = classifier, side, rng
        classes = rng.permutation(rows.label.unique())[:CLASSES]
        rows = rows[rows.label.isin(classes)]
        some = rows.groupby("label").sample(EACH, random_state=rng, replace=True)
        some = some.drop_duplicates("file")
        right = [self._says([self._picture(row)]) == row.label for _, row in some.iterrows()]
        recognised = some[np.array(right)].groupby("label")
        self._by_label = {label: part for label, part in recognised if len(part) >= MOST}

    def collages(self, count: int, kind: str, pictures: int) -> Iterator[Collage]:
        """So many of a kind, each of so many pictures."""
        found = 0
        while found < count:
            made = self._one(kind, pictures)
            if made is not None:
                found += 1
                yield made

    def _one(self, kind: str, pictures: int) -> Collage | None:
        labels = self.rng.choice(list(self._by_label), pictures, replace=False)
        if kind == "one class":
            labels = np.repeat(labels[:1], pictures)
        rows = []
        for label in dict.fromkeys(labels.tolist()):
            of_class = int((labels == label).sum())
            part = self._by_label[label].sample(of_class, random_state=self.rng)
            rows += [row for _, row in part.iterrows()]
        own = [i for i, each in enumerate(labels) if each == labels[0]]
        shown = [self._picture(row) for row in rows]
        blurred = [each.filter(ImageFilter.GaussianBlur(self.side / BLUR)) for each in shown]
        variants = [shown, *([*blurred[:i], shown[i], *blurred[i + 1 :]] for i in own)]
        if any(self._says(each) != labels[0] for each in variants):
            return None
        places = self.rng.permutation(pictures)
        ordered = [shown[i] for i in places]
        boxes = [self._box(rows[i], int(np.flatnonzero(places == i)[0])) for i in own]
        return Collage(self._in_a_row(ordered), int(labels[0]), boxes, kind, pictures)

    def singles(self, paths: list[Path]) -> Iterator[Collage]:
        """Single photographs, of which the classifier says what it says."""
        for path in paths:
            x = self.classifier.prepare(path).input
            with torch.no_grad():
                label = int(self.classifier.logits(x[None]).argmax())
            yield Collage(x, label, [(0, 0, x.shape[2], x.shape[1])], "single", 1)

    def _says(self, pictures: Sequence[Image.Image]) -> int:
        with torch.no_grad():
            return int(self.classifier.logits(self._in_a_row(pictures)[None]).argmax())

    def _picture(self, row: pd.Series) -> Image.Image:
        picture = Image.open(io.BytesIO(row.image)).convert("RGB")
        return picture.resize((self.side, self.side), Image.Resampling.BICUBIC)

    def _box(self, row: pd.Series, place: int) -> Box:
        scale = self.side / TINY
        left, top, right, bottom = (round(float(value) * scale) for value in row.bbox)
        return left + place * self.side, top, right + place * self.side, bottom

    def _in_a_row(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Side by side, as a classifier of ImageNet's normalisation takes it."""
        both = np.concatenate([np.asarray(each, np.float32) / 255 for each in pictures], 1)
        x = torch.from_numpy(both).permute(2, 0, 1)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean[:, None, None]) / std[:, None, None]


def known(rows: pd.DataFrame, wnids: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """The rows whose class a classifier has, by the WordNet ids of its classes, with its label."""
    label = {wnid: i for i, ids in enumerate(wnids) for wnid in ids}
    rows = rows[rows.wnid.isin(label)].copy()
    rows["label"] = rows.wnid.map(label)
    return rows
