"""The first screen's tabs: the explanation, further objects, and alternatives."""

from collections.abc import Sequence
from dataclasses import dataclass

from expcam.circuits.circuit import Circuit
from expcam.explain.explanation import Explanation
from expcam.graphs.page.headline import Fact, facts, readout_fact
from expcam.graphs.pictures import data_uri, kept_pixels, outlined, removed_pixels
from expcam.graphs.wording import verdict

ANOTHER = "Another object of the class: what it needs by itself, all else left out."
ALTERNATIVE = "Other pixels that are enough as well: none of them is in the mask of"


@dataclass(frozen=True, kw_only=True)
class View:
    """An explanation as the first screen shows it.

    Attributes:
        name: Of its tab.
        about: What it is beside the first one; empty of that.
        verdict: The finding in a few sentences.
        facts: Figures with their meaning.
        pictures: What the slider fades through: a name and a URI each.
        ratio: Width to height.
        circuit: The place of its own circuit among those that are drawn.
    """

    name: str
    about: str
    verdict: str
    facts: Sequence[Fact]
    pictures: Sequence[tuple[str, str]]
    ratio: str
    circuit: int | None


def readout_title(number: int) -> str:
    """What the readout of a further object is called beside other circuits."""
    return f"readout of object {number}"


def first_screen(
    objects: Sequence[Explanation],
    alternatives: Sequence[Explanation],
    first: Fact,
    readouts: Sequence[Circuit],
    titles: Sequence[str],
) -> list[View]:
    """The tabs: objects, then alternatives.

    Args:
        objects: The first one, and further ones.
        alternatives: To the first.
        first: Of the circuit that is shown first.
        readouts: One of each object, or none at all.
        titles: Of all circuits that are drawn.
    """
    name = "object 1" if len(objects) > 1 else "explanation"
    views = [_view(name, objects[0], "", [first], 0)]
    for n, each in enumerate(objects[1:], start=2):
        own = [readout_fact(readouts[n - 1], readouts[0])] if readouts else []
        place = titles.index(readout_title(n)) if readouts else None
        views.append(_view(f"object {n}", each, ANOTHER, own, place))
    for n, each in enumerate(alternatives, start=1):
        views.append(_view(f"alternative {n}", each, f"{ALTERNATIVE} “{name}”.", [], None))
    return views


def _view(
    name: str, each: Explanation, about: str, further: Sequence[Fact], circuit: int | None
) -> View:
    return View(
        name=name,
        about=about,
        verdict=verdict(each),
        facts=[*facts(each), *further],
        pictures=[
            ("photograph", data_uri(each.photo)),
            ("mask", data_uri(outlined(each))),
            ("explanation", data_uri(kept_pixels(each))),
            ("the rest", data_uri(removed_pixels(each))),
        ],
        ratio=f"{each.photo.shape[1]} / {each.photo.shape[0]}",
        circuit=circuit,
    )
