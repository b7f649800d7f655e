"""Files that are written whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from expcam.errors import FileFormatError


def legible(name: str) -> str:
    """The name of a file as text that can be written anywhere.

    Bytes of it that are no UTF-8 become question marks.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path; what is written there replaces ``path`` at the end of the block.

    The temporary path keeps the suffix, and may become a file or a folder. When the block
    raises, it is removed and ``path`` is left as it was.

    Raises:
        FileFormatError: The folder does not exist or cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        yield temporary
        if target.is_dir() and temporary.is_dir():
            aside = temporary.with_suffix(".old")
            target.replace(aside)
            temporary.replace(target)
            shutil.rmtree(aside)
        else:
            temporary.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileFormatError(f"cannot write `{target}`: {reason}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def check_writable(path: str | Path, *, folder: Collection[str] | None = None) -> None:
    """Raise `FileFormatError` now, not after the work, when ``path`` cannot be written.

    Args:
        path: The file, or the folder if ``folder`` is set.
        folder: Names of the files in the folder that will be written; None for a single file.
            A folder that holds other files is not replaced.
    """
    target = Path(path)
    if target.exists() and target.is_dir() != (folder is not None):
        kind = "a folder" if target.is_dir() else "a file"
        raise FileFormatError(f"cannot write `{target}`: it is {kind}")
    if folder is not None and target.is_dir():
        other = sorted({each.name for each in target.iterdir()} - set(folder))
        if other:
            raise FileFormatError(f"cannot write `{target}`: the folder holds `{other[0]}`")
    if not target.parent.is_dir():
        raise FileFormatError(f"cannot write `{target}`: no such folder `{target.parent}`")
    if not os.access(target.parent, os.W_OK) or (
        target.exists() and not os.access(target, os.W_OK)
    ):
        raise FileFormatError(f"cannot write `{target}`: permission denied")
