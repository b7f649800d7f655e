"""What the site takes from the code while it is built, so that it cannot fall behind it."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STUB = Path(__file__).parents[1] / "src" / "expcam" / "__init__.pyi"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the public names and the help of the command, where a page asks for them."""
    if "{public names}" in markdown:
        markdown = markdown.replace("{public names}", _public_names())
    if "{help}" in markdown:
        markdown = markdown.replace("{help}", _help())
    return markdown


def _public_names() -> str:
    """A reference to the docstring of each name in the stub, by the room that it is from."""
    rooms: dict[str, list[str]] = {}
    for line in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.ImportFrom) and line.module:
            room = line.module.split(".")[0]
            rooms.setdefault(room, []).extend(
                f"::: expcam.{line.module}.{each.name}" for each in line.names
            )
    return "\n\n".join(f"## {room}\n\n" + "\n\n".join(names) for room, names in rooms.items())


def _help() -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "expcam", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return f"```text\n{shown.stdout.strip()}\n```"
