"""What is known of one explanation, and its file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from expcam.classifier.model import Prepared
from expcam.errors import FileFormatError
from expcam.explain.match import UNKNOWN, Match
from expcam.explain.objectives import OBJECTIVES
from expcam.files import written_whole

FORMAT = "expcam-explanation/4"
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile)
"""What reading a file that is none of ours, or not whole, can raise."""
MEAN_COLOUR = (124, 116, 104)
"""ImageNet's."""
_ARRAYS = ("mask", "probability", "image", "photo", "input")


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """A mask under which a classifier still decides as on the whole image.

    All figures were measured on the hard mask, with the classifier that was handed in.

    Attributes:
        mask: Pixels that are kept, bool ``(H, W)``.
        probability: Mask probabilities, float32 ``(H, W)``.
        image: The photograph as the classifier sees it, uint8 ``(H, W, 3)``.
        photo: The same field of view in pixels a whole number of times finer, for display.
        input: The image, normalised: float32 ``(channels, H, W)``.
        label: Index of the class that is explained; of a group that of its most probable member.
        label_name: Its name, or the group's.
        group: Indices of the classes that count as one; empty where there is one class only.
        tied: Classes that are nearly tied with the one that is explained, which stands first,
            and their probabilities on the whole image (see `nearly_tied`); empty where none is.
        predicted: Whether the classifier gives the whole image that class; it need not where
            the class was asked for. With a ``contrast``, whether it prefers it to that one.
        confidence: Its probability on the whole image; with a ``contrast``, among the two.
        masked_confidence: Its probability on the explanation.
        area: Share of pixels kept.
        kept: Whether the explanation, on the mean colour, has the label.
        robustness: Share of the backgrounds of `EVALUATION`, unseen in training, on which it has.
        necessary: Whether the image without the mask's pixels loses the label; false where the
            label is not ``predicted``.
        draws: Further backgrounds tried, unseen in training and independent: half N(0, 1), half
            U(-1, 1) noise in normalised space.
        draws_kept: On how many of them the label is kept.
        bound: One-sided Clopper-Pearson lower bound, at 95 %, of the probability that the label
            is kept on such a background.
        match: How alike the activations on the explanation, on the mean colour, and on the whole
            image are; by default unknown.
        match_controls: The same of masks of the same area: ``moved``, the mask itself at random
            places, on average; ``gradcam``, the pixels of highest Grad-CAM, where there is one.
        match_asked: The least pooled similarity that was asked for, by tap; empty where none was.
        cell: Side in pixels of the blocks at which the mask is locally minimal: no block that it
            touches and no connected component of it can be dropped without losing, on the search's
            own backgrounds, what was asked for: the label, on noise with some margin to spare. 0
            where nothing of the kind is claimed.
        seconds: Time the mask took; of several images solved together, an equal share.
        cost: Work in forward and backward passes of the classifier on one image, all included;
            a forward pass alone counts a third.
        objective: What was asked for, a key of `OBJECTIVES`.
        contrast: Index of the class to which ``label`` was compared, if to one alone: it then
            counts as kept where its logit is higher than that one's.
        contrast_name: Its name; empty when there is none.
        classifier: Name of the classifier.
        recipe: Name of the recipe.
        seed: Seed of the search.
        source: Name of the image's file; empty when it had none.
        mean_colour: What 0 in the classifier's normalised space looks like, 0 to 255.
    """

    mask: npt.NDArray[np.bool_]
    probability: npt.NDArray[np.float32]
    image: npt.NDArray[np.uint8]
    photo: npt.NDArray[np.uint8]
    input: npt.NDArray[np.float32]
    label: int
    label_name: str
    group: tuple[int, ...] = ()
    tied: Mapping[str, float] = field(default_factory=dict)
    predicted: bool
    confidence: float
    masked_confidence: float
    area: float
    kept: bool
    robustness: float
    necessary: bool
    draws: int
    draws_kept: int
    bound: float
    match: Match = UNKNOWN
    match_controls: Mapping[str, Match] = field(default_factory=dict)
    match_asked: Mapping[str, float] = field(default_factory=dict)
    cell: int
    seconds: float
    cost: float
    objective: str
    contrast: int | None
    contrast_name: str
    classifier: str
    recipe: str
    seed: int
    source: str = ""
    mean_colour: tuple[int, int, int] = MEAN_COLOUR

    @property
    def holds(self) -> bool:
        """Whether the mask does what was asked for on the mean colour; see also ``robustness``."""
        asked = OBJECTIVES[self.objective]
        kept, lost = self.kept or not asked.keeping, self.necessary or not asked.removal
        return kept and lost and (self.matches or not asked.matching)

    @property
    def matches(self) -> bool:
        """Whether the activations are kept as far as was asked for; true where nothing was."""
        each = self.match_asked.items()
        return all(self.match.pooled[tap] >= least for tap, least in each)

    @property
    def divergence(self) -> float:
        """``KL(f(x) ‖ f(e))`` in nats: how far the probabilities are from the whole image's."""
        return self.match.divergence

    def prepared(self, device: torch.device) -> Prepared:
        """The image as `Classifier.prepare` gave it, on a device."""
        return Prepared(
            input=torch.from_numpy(self.input).to(device),
            picture=self.image,
            photo=self.photo,
            mean_colour=self.mean_colour,
            source=self.source,
        )

    def masked_image(self, outside: tuple[int, int, int] | None = None) -> Image.Image:
        """The explanation as a picture; removed pixels have the colour ``outside``.

        The default is what the classifier was shown there, its mean colour.
        """
        colour = np.array(self.mean_colour if outside is None else outside, np.uint8)
        shown = np.where(self.mask[:, :, None], self.image, colour)
        return Image.fromarray(shown)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from expcam.graphs.notebook import explanation_view

        return explanation_view(self)

    def save(self, path: str | Path) -> None:
        """Write everything to one ``.npz`` file, whole or not at all."""
        with written_whole(path) as temporary, temporary.open("wb") as file:
            facts = {name: value for name, value in asdict(self).items() if name not in _ARRAYS}
            np.savez_compressed(
                file,
                facts=np.array(json.dumps({"format": FORMAT, **facts})),
                **{name: getattr(self, name) for name in _ARRAYS},
            )

    @classmethod
    def load(cls, path: str | Path) -> "Explanation":
        """Read a file written by `save`; nothing in it is executed.

        Raises:
            FileFormatError: No such file, or not an explanation of this format.
        """
        try:
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                arrays = {name: file[name] for name in _ARRAYS}
        except FileNotFoundError:
            raise FileFormatError(f"no such file: `{path}`") from None
        except DAMAGED as error:
            raise FileFormatError(f"`{path}` is not an explanation saved by expcam") from error
        if not isinstance(facts, dict):
            raise FileFormatError(f"`{path}` is not an explanation saved by expcam")
        found = facts.pop("format", None)
        if found != FORMAT:
            raise FileFormatError(f"`{path}` has format {found!r}; this version reads {FORMAT!r}")
        try:
            for name in ("mean_colour", "group"):  # JSON knows lists only
                facts[name] = tuple(facts[name])
            facts["match"] = Match(**facts["match"])
            controls = facts["match_controls"].items()
            facts["match_controls"] = {name: Match(**each) for name, each in controls}
            return cls(**facts, **arrays)
        except DAMAGED as error:
            raise FileFormatError(f"`{path}` lacks fields of its format, or has others") from error


def ties(tied: Mapping[str, float]) -> str:
    """In words which classes are nearly tied, and what to ask for."""
    said = ", ".join(f"`{name}` {share:.0%}" for name, share in tied.items())
    return (
        f"the label is nearly tied ({said}); if they mean the same here, ask for all as one: "
        f'target "{", ".join(tied)}"'
    )
