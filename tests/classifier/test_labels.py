import numpy as np
import pytest
import torch

from expcam.classifier.labels import find_class, find_classes, label_names
from expcam.errors import ClassifierError, TargetError


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"],
        np.array(["cat", "dog"]),
        (name for name in ("cat", "dog")),
        {0: "cat", 1: "dog"},
        {"1": "dog", "0": "cat"},  # as JSON keeps them
        {"dog": 1, "cat": 0},
        {np.int64(1): "dog", np.int64(0): "cat"},
    ],
)
def test_names_in_every_form_in_which_people_keep_them(labels: object) -> None:
    assert label_names(labels) == ("cat", "dog")  # type: ignore[arg-type]


def test_numbers_are_names() -> None:
    assert label_names(range(3)) == ("0", "1", "2")
    assert find_class("2", ("0", "1", "2"), "it") == 2
    # A name as it is written comes before an index in digits.
    assert find_class("0", ("1", "0"), "it") == 1
    assert find_class(0, ("1", "0"), "it") == 0
    assert find_class(torch.tensor(1), ("1", "0"), "it") == 1


def test_what_are_no_labels() -> None:
    with pytest.raises(ClassifierError, match="a list of names, or a dictionary; not 'cat'"):
        label_names("cat")
    with pytest.raises(ClassifierError, match="classes 0 to 1, but 1 is missing"):
        label_names({0: "cat", 2: "dog"})
    with pytest.raises(TargetError, match=r"an index or a label, not float `1\.5`"):
        find_class(1.5, ("cat", "dog"), "it")


def test_several_classes_as_a_list_or_with_commas() -> None:
    names = ["tabby", "tiger cat", "crane, bird", "crane"]
    for target in ("tabby, Tiger cat", ["tabby", 1], ("0", "tiger cat")):
        assert find_classes(target, names, "it") == (0, 1)
    assert find_classes("crane, bird", names, "it") == (2,)  # a label with a comma
    assert find_classes(3, names, "it") == (3,)
    for target, said in (
        ("tabby, tapir", "unknown class ` tapir`"),
        (["tabby", 0], "`tabby` is named twice"),
        ([], "the list is empty"),
    ):
        with pytest.raises(TargetError, match=said):
            find_classes(target, names, "it")
