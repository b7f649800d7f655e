import ast
import subprocess
import sys
from pathlib import Path

import pytest

import expcam


def test_every_public_name_can_be_had() -> None:
    for name in expcam.__all__:
        assert getattr(expcam, name) is not None
    assert set(expcam.__all__) <= set(dir(expcam))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No expcam attribute explian"):
        _ = expcam.explian


def test_type_checkers_find_the_same_names() -> None:
    stub = ast.parse(Path(expcam.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imported = [alias for node in stub.body for alias in node.names]  # type: ignore[attr-defined]
    # Only a name that is imported as itself is public in a stub.
    assert all(alias.asname == alias.name for alias in imported)
    assert sorted(alias.name for alias in imported) == sorted(expcam.__all__)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, expcam, expcam.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
