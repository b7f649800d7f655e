"""A classifier of your own, by where the function is that makes it."""

import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from expcam.classifier.model import Classifier
from expcam.errors import ClassifierError

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""``package.module:function``."""


def called(reference: str) -> nn.Module | Classifier:
    """What a function gives that is called without arguments: a module, or a whole classifier.

    Its module may lie in the working directory. The name may also be that of a module or a
    classifier which is there already.

    Raises:
        ClassifierError: It cannot be imported, there is no such name in it, it fails, or it gives
            something else.
    """
    place, _, name = reference.partition(":")
    with _importing_from_here():
        try:
            module = importlib.import_module(place)
        except Exception as error:  # whatever a module does that is imported
            raise ClassifierError(
                f"model `{reference}`: cannot import `{place}`: {type(error).__name__}: {error}"
            ) from error
        if not hasattr(module, name):
            near = difflib.get_close_matches(name, dir(module), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ClassifierError(f"model `{reference}`: no `{name}` in `{place}`{hint}")
        made = getattr(module, name)
        if not isinstance(made, nn.Module | Classifier):
            try:
                made = made()
            except Exception as error:  # whatever the function does
                raise ClassifierError(
                    f"model `{reference}`: {name}() fails: {type(error).__name__}: {error}"
                ) from error
    if not isinstance(made, nn.Module | Classifier):
        raise ClassifierError(
            f"model `{reference}` gives {type(made).__name__}, not a torch.nn.Module or an "
            "expcam.Classifier"
        )
    return made


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """A command of its own has its folder first on the path, not the working directory."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
