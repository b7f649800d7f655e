"""From a model's name to its blueprint."""

import difflib
from collections.abc import Callable

from expcam.classifier.sources import (
    BUNDLED,
    DEFAULT,
    FORMS,
    TIMM,
    TRANSFORMERS,
    bundled,
    from_timm,
    from_torchvision,
    lite0,
)
from expcam.classifier.sources.blueprint import Blueprint
from expcam.errors import ClassifierError

OWN: dict[str, Callable[[], Blueprint]] = {
    DEFAULT: lite0.blueprint,
    BUNDLED: bundled.blueprint,
}
"""Classifiers that need no network."""


def blueprint_of(name: str) -> Blueprint:
    """What a name stands for.

    Raises:
        ClassifierError: Nothing; the message names the nearest.
    """
    if name in OWN:
        return OWN[name]()
    if name.startswith((*from_timm.HUB, TIMM)):
        short, known = name.removeprefix(TIMM), from_timm.names()
        if short.split(".")[0] not in known and ":" not in short:
            raise _unknown(name, [f"{TIMM}{each}" for each in known])
        return from_timm.blueprint(short)
    if name.startswith(TRANSFORMERS):
        from expcam.classifier.sources import from_transformers

        return from_transformers.blueprint(name.removeprefix(TRANSFORMERS))
    if name in from_torchvision.names():
        return from_torchvision.blueprint(name)
    if name in from_timm.names():
        raise ClassifierError(f"unknown model `{name}`; timm has one: {TIMM}{name}")
    raise _unknown(name, classifier_names())


def classifier_names() -> list[str]:
    """The names that need no prefix."""
    return [*OWN, *from_torchvision.names()]


def _unknown(name: str, known: list[str]) -> ClassifierError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"it is {FORMS}"
    return ClassifierError(f"unknown model `{name}`; {hint}")
