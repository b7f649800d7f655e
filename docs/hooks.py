"""What the site takes from the code while it is built, so that it cannot fall behind it."""

import ast
from pathlib import Path
from typing import Any

from typer.main import get_command

from expcam.cli import app

STUB = Path(__file__).parents[1] / "src" / "expcam" / "__init__.pyi"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the public names and the options of the command, where a page asks for them."""
    if "{public names}" in markdown:
        markdown = markdown.replace("{public names}", _public_names())
    if "{options}" in markdown:
        markdown = markdown.replace("{options}", _options())
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


def _options() -> str:
    """A row for each option of the command."""
    rows = ["| option | meaning | default |", "| --- | --- | --- |"]
    for each in get_command(app).params:
        if each.param_type_name == "option" and each.name != "help":
            names = " / ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
            value = f" {each.metavar}" if each.metavar else ""
            default = "" if each.default in (None, False) else f"`{each.default}`"
            rows.append(f"| {names}{value} | {each.help} | {default} |")
    return "\n".join(rows)
