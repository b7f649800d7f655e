import subprocess
import sys

import pytest

import expcam


def test_every_public_name_can_be_had() -> None:
    for name in expcam.__all__:
        assert getattr(expcam, name) is not None
    assert set(expcam.__all__) <= set(dir(expcam))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `explian`"):
        _ = expcam.explian


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, expcam, expcam.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
