"""Names of classes from a file: lines, JSON or CSV."""

import ast
import csv
import json
from pathlib import Path
from typing import Any

from expcam.classifier.labels import label_names
from expcam.errors import ClassifierError

NAME_COLUMNS = ("name", "label", "class", "class_name", "classname", "category", "description")
"""What the column of names is called in a CSV file, the surest first."""
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Class names in the order of the logits.

    A ``.csv`` or ``.tsv`` file has a column of names, and perhaps one of indices; a file that
    begins with a bracket holds JSON, or a Python literal: a list, a dictionary of names by index
    or of indices by name, or a configuration with such an ``id2label``; any other file has a name
    in each line.

    Raises:
        ClassifierError: No such file, or the names cannot be told.
    """
    file = Path(path)
    if not file.is_file():
        raise ClassifierError(f"no such labels file: `{file}`")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ClassifierError(f"labels file `{file}` is no text in UTF-8") from None
    separator = SEPARATORS.get(file.suffix.lower())
    try:
        if separator:
            return _of_table(list(csv.reader(text.splitlines(), delimiter=separator)))
        if text.lstrip()[:1] in ("{", "["):
            return _of_structure(text)
        return _of_lines(text)
    except (ClassifierError, csv.Error) as error:
        raise ClassifierError(f"labels file `{file}`: {error}") from None


def _of_lines(text: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.rstrip().splitlines()]
    if not names:
        raise ClassifierError("it is empty")
    if "" in names:
        raise ClassifierError(f"line {names.index('') + 1} is empty: one name in each line")
    return tuple(names)


def _of_structure(text: str) -> tuple[str, ...]:
    try:
        content: Any = json.loads(text)
    except ValueError:
        try:
            content = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ClassifierError("it begins like JSON but is none") from None
    if isinstance(content, dict):
        content = content.get("id2label", content)
    values = list(content.values()) if isinstance(content, dict) else list(content)
    if all(isinstance(each, list | tuple) and each for each in values):
        # A WordNet id and a name, as Keras has them.
        last = [each[-1] for each in values]
        content = dict(zip(content, last, strict=True)) if isinstance(content, dict) else last
        values = last
    if not values or not all(isinstance(each, str | int) for each in values):
        raise ClassifierError(
            'it holds neither a list of names, nor a dictionary such as {"0": "cat"}'
        )
    return label_names(content)


def _of_table(rows: list[list[str]]) -> tuple[str, ...]:
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not rows or len({len(row) for row in rows}) > 1:
        raise ClassifierError("it is no table of equally long rows")
    head = [cell.lower() for cell in rows[0]]
    named = [head.index(name) for name in NAME_COLUMNS if name in head]
    indices = _column_of_indices(rows[1:])
    if named or (indices is not None and not rows[0][indices].isdecimal()):
        rows = rows[1:]
    else:
        indices = _column_of_indices(rows)
    others = [column for column in range(len(head)) if column != indices]
    if not named and len(others) != 1:
        raise ClassifierError(
            f"call its column of names `name`; the first row is: {', '.join(rows[0])}"
        )
    names = named[0] if named else others[0]
    if indices is None:
        return tuple(row[names] for row in rows)
    return label_names({int(row[indices]): row[names] for row in rows})


def _column_of_indices(rows: list[list[str]]) -> int | None:
    """The column that holds each class index once."""
    expected = sorted(map(str, range(len(rows))))
    columns = list(zip(*rows, strict=True))
    found = [i for i, column in enumerate(columns) if sorted(column) == expected]
    return found[0] if found else None
