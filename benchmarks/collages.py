"""Collages of photographs whose objects are known: where each lies, and of which class it is.

A collage is a strongly blurred photograph with two or three pictures of Tiny ImageNet on it, each
of nearly half its side, which do not overlap. Only such are taken as the classifier can be asked
about: it says the class of the first picture of the whole, and of each picture of that class by
itself on the same ground. A single photograph is whatever the classifier says of it.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

import expcam

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""
TILE = 0.45
"""Side of a picture, as a share of the collage's."""


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


def opened(row: pd.Series) -> Image.Image:
    """The picture of a row."""
    return Image.open(io.BytesIO(row.image)).convert("RGB")


CLASSES, EACH, MOST = 40, 12, 3
"""Classes, at random, the pictures of each that are tried, and how many must be recognised."""


class Maker:
    """Draws collages for a classifier.

    Args:
        classifier: Frozen by the caller.
        side: Of a collage in pixels.
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
        self._tile = round(TILE * side)
        classes = rng.permutation(rows.label.unique())[:CLASSES]
        rows = rows[rows.label.isin(classes)]
        some = rows.groupby("label").sample(EACH, random_state=rng, replace=True)
        some = some.drop_duplicates("file")
        self._grounds = some
        right = [self._recognised(row) for _, row in some.iterrows()]
        known = some[np.array(right)]
        self._by_label = {
            label: part for label, part in known.groupby("label") if len(part) >= MOST
        }

    def collages(self, count: int, kind: str, pictures: int) -> Iterator[Collage]:
        """So many of a kind; `count` are found sooner or later."""
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
        ground = self._ground()
        places = self._places(pictures, self._tile)
        whole = ground.copy()
        alone = []
        boxes: list[Box] = []
        tile = self._tile
        for row, (left, top) in zip(rows, places, strict=True):
            picture = opened(row)
            scale = tile / picture.width
            picture = picture.resize((tile, tile), Image.Resampling.BICUBIC)
            whole.paste(picture, (left, top))
            only = ground.copy()
            only.paste(picture, (left, top))
            alone.append(only)
            x0, y0, x1, y1 = (float(v) * scale for v in row.bbox)
            boxes.append((round(left + x0), round(top + y0), round(left + x1), round(top + y1)))
        xs = torch.stack([self.normalised(each) for each in (whole, *alone)])
        with torch.no_grad():
            said = self.classifier.logits(xs).argmax(1).tolist()
        label = int(labels[0])
        own = [i for i, each in enumerate(labels) if each == label]
        if said[0] != label or any(said[1 + i] != label for i in own):
            return None
        return Collage(xs[0], label, [boxes[i] for i in own], kind, pictures)

    def singles(self, paths: list[Path]) -> Iterator[Collage]:
        """Single photographs, of which the classifier says what it says."""
        for path in paths:
            picture = ImageOps.fit(Image.open(path).convert("RGB"), (self.side, self.side))
            x = self.normalised(picture)
            with torch.no_grad():
                label = int(self.classifier.logits(x[None]).argmax())
            yield Collage(x, label, [(0, 0, self.side, self.side)], "single", 1)

    def normalised(self, picture: Image.Image) -> Tensor:
        """As a classifier of ImageNet's normalisation takes it."""
        x = torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean[:, None, None]) / std[:, None, None]

    def _ground(self) -> Image.Image:
        """A picture without anything to be recognised."""
        picture = opened(self._grounds.sample(1, random_state=self.rng).iloc[0])
        picture = picture.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return picture.filter(ImageFilter.GaussianBlur(self.side / 10))

    def _recognised(self, row: pd.Series) -> bool:
        """Whether the classifier says a picture's class in the middle of a ground."""
        whole = self._ground()
        whole.paste(
            opened(row).resize((self._tile, self._tile), Image.Resampling.BICUBIC),
            ((self.side - self._tile) // 2, (self.side - self._tile) // 2),
        )
        with torch.no_grad():
            said = self.classifier.logits(self.normalised(whole)[None])[0].argmax()
        return bool(int(said) == row.label)

    def _places(self, pictures: int, tile: int) -> list[tuple[int, int]]:
        """Left and top of each, in cells of their own."""
        half = self.side // 2
        cells = self.rng.choice(4, pictures, replace=False)
        inside = self.rng.integers(0, half - tile + 1, (pictures, 2))
        return [
            (int(cell % 2 * half + left), int(cell // 2 * half + top))
            for cell, (left, top) in zip(cells, inside, strict=True)
        ]


def known(rows: pd.DataFrame, wnids: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """The rows whose class a classifier has, by the WordNet ids of its classes, with its label."""
    label = {wnid: i for i, ids in enumerate(wnids) for wnid in ids}
    rows = rows[rows.wnid.isin(label)].copy()
    rows["label"] = rows.wnid.map(label)
    return rows
