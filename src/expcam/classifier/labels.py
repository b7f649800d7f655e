"""Names of classes, given in any of the forms in which people keep them."""

import difflib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence

from expcam.errors import ClassifierError, TargetError

Labels = Iterable[object] | Mapping[int, object] | Mapping[str, object]
"""Names in the order of the logits; or by index (``id2label``), or indices by name."""


def label_names(labels: Labels) -> tuple[str, ...]:
    """Readable class names in the order of the logits.

    Raises:
        ClassifierError: They are a single word, or a dictionary that lacks an index.
    """
    if isinstance(labels, str | bytes):
        raise ClassifierError(f"labels are a list of names, or a dictionary; not {labels!r}")
    if not isinstance(labels, Mapping):
        return tuple(str(each) for each in labels)
    by_index = {_index(key): name for key, name in labels.items()}
    if None in by_index:  # ``label2id``, or a data set's ``class_to_idx``
        by_index = {_index(index): name for name, index in labels.items()}
    missing = sorted(set(range(len(labels))) - by_index.keys())
    if missing:
        raise ClassifierError(
            f"labels must name the classes 0 to {len(labels) - 1}, but {missing[0]} is missing"
        )
    return tuple(str(by_index[index]) for index in range(len(labels)))


def _index(value: object) -> int | None:
    """A class index, given as a number or in digits; None where it is none."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]+\s*", value) else None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def find_class(target: object, names: Sequence[str], classifier: str) -> int:
    """The index of a class given by number or by name.

    A name is looked for as it is written first, then as an index in digits, then with upper and
    lower case alike.

    Args:
        target: An index, the same in digits, or a label.
        names: Those of all classes.
        classifier: What the classifier is called.

    Raises:
        TargetError: No such class, or several of that name; the message names the nearest
            labels, or their indices.
    """
    if not isinstance(target, str):
        index = _index(target)
        if index is None:
            raise TargetError(
                f"a class is an index or a label, not {type(target).__name__} `{target}`"
            )
        return _checked(index, len(names), classifier)
    wanted = target.strip()
    if wanted not in names and re.fullmatch(r"-?[0-9]+", wanted):
        return _checked(int(wanted), len(names), classifier)
    for fold in (str, str.lower):
        found = [i for i, name in enumerate(names) if fold(name) == fold(wanted)]
        if len(found) > 1:
            places = ", ".join(f"{i} (`{names[i]}`)" for i in found)
            raise TargetError(
                f"classifier `{classifier}` has several classes `{wanted}`: {places}; give an index"
            )
        if found:
            return found[0]
    lower, wanted = [name.lower() for name in names], wanted.lower()
    near = difflib.get_close_matches(wanted, lower, n=3)
    near += [name for name in lower if wanted in name and name not in near][: 3 - len(near)]
    hint = f"; did you mean {', '.join(near)}?" if near else "; give its label or its index"
    raise TargetError(f"unknown class `{target}` of classifier `{classifier}`{hint}")


def find_classes(target: object, names: Sequence[str], classifier: str) -> tuple[int, ...]:
    """The indices of one class, or of several, as a list or with commas between them.

    Args:
        target: As for `find_class`, or a list of such. A text with commas that is no label is
            taken apart.
        names: Those of all classes.
        classifier: What the classifier is called.

    Raises:
        TargetError: See `find_class`; or a class is given twice, or none at all.
    """
    whole = isinstance(target, str) and target.strip().lower() in {name.lower() for name in names}
    if isinstance(target, str) and not whole:
        parts: list[object] = [part for part in target.split(",") if part.strip()] or [target]
    elif isinstance(target, list | tuple):
        parts = list(target)
    else:
        parts = [target]
    found = tuple(find_class(part, names, classifier) for part in parts)
    if not found:
        raise TargetError("no class is named: the list is empty")
    if len(set(found)) < len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise TargetError(f"class `{names[twice]}` is named twice")
    return found


def _checked(index: int, classes: int, classifier: str) -> int:
    if not 0 <= index < classes:
        raise TargetError(
            f"unknown class {index}: classifier `{classifier}` has classes 0 to {classes - 1}"
        )
    return index
