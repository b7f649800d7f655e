import json
from pathlib import Path

import pytest

from expcam.classifier.sources.bundled import LABELS_FILE, bundled_classes
from expcam.classifier.sources.label_files import read_labels
from expcam.errors import ClassifierError

FORMS = {
    "lines.txt": "cat\ndog\nbird, small\n",
    "windows.txt": "\ufeffcat\r\ndog\r\nbird, small\r\n\r\n",
    "no_suffix": "cat\ndog\nbird, small",
    "list.json": json.dumps(["cat", "dog", "bird, small"]),
    "id2label.json": json.dumps({"2": "bird, small", "0": "cat", "1": "dog"}),
    "class_to_idx.json": json.dumps({"bird, small": 2, "cat": 0, "dog": 1}),
    "config.json": json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "bird, small"}}),
    "keras.json": json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "bird, small"]}),
    "python.txt": "{0: 'cat',\n 1: 'dog',\n 2: 'bird, small'}",
    "column.csv": 'cat\ndog\n"bird, small"\n',
    "headed.csv": 'label\ncat\ndog\n"bird, small"\n',
    "indexed.csv": '2,"bird, small"\n0,cat\n1,dog\n',
    "last.csv": 'cat,0\ndog,1\n"bird, small",2\n',
    "both.csv": 'id,Class\n2,"bird, small"\n0,cat\n1,dog\n',
    "unknown_head.csv": 'index,what\n2,"bird, small"\n0,cat\n1,dog\n',
    "more.csv": 'wnid,name,count\nn1,cat,9\nn2,dog,9\nn3,"bird, small",8\n',
    "tabs.tsv": "name\tindex\nbird, small\t2\ncat\t0\ndog\t1\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_names_in_many_forms(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8", newline="")
    assert read_labels(tmp_path / name) == ("cat", "dog", "bird, small")


def test_a_table_of_our_own() -> None:
    assert read_labels(str(LABELS_FILE)) == tuple(name for _, name in bundled_classes())


MISTAKES = {
    "empty.txt": ("", "it is empty"),
    "gap.txt": ("cat\n\ndog\n", "line 2 is empty"),
    "broken.json": ('{"0": "cat"', "begins like JSON but is none"),
    "numbers.json": ('{"0": {"name": 1}}', "neither a list of names, nor a dictionary"),
    "hole.json": ('{"0": "cat", "2": "dog"}', "1 is missing"),
    "ragged.csv": ("cat,0\ndog\n", "no table of equally long rows"),
    "unclear.csv": ("a,b\ncat,katze\ndog,hund\n", "call its column of names `name`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_names_that_cannot_be_told(name: str, tmp_path: Path) -> None:
    text, message = MISTAKES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ClassifierError, match=message) as caught:
        read_labels(tmp_path / name)
    assert name in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="no such labels file"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("Bär".encode("latin-1"))
    with pytest.raises(ClassifierError, match="no text in UTF-8"):
        read_labels(tmp_path / "latin.txt")
