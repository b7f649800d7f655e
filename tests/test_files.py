from pathlib import Path

import pytest

from expcam.errors import FileFormatError
from expcam.files import check_writable, written_whole


def test_a_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with written_whole(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with written_whole(tmp_path / "out") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such folder"):
        check_writable(tmp_path / "missing" / "a.html")
    with pytest.raises(FileFormatError, match="it is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path, folder=["b.csv"])
    (tmp_path / "a.csv").touch()
    with pytest.raises(FileFormatError, match="it is a file"):
        check_writable(tmp_path / "a.csv", folder=["b.csv"])
    with pytest.raises(FileFormatError, match=r"the folder holds `a\.csv`"):
        check_writable(tmp_path, folder=["b.csv"])
    with (
        pytest.raises(FileFormatError, match=r"cannot write .*a\.html"),
        written_whole(tmp_path / "missing" / "a.html") as temporary,
    ):
        temporary.write_text("x")
