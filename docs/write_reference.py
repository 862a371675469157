"""Write the reference: every key of a recipe, every component and every command, as the code has them.

python docs/write_reference.py          # docs/reference.md anew
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

if TYPE_CHECKING:
    import inspect
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
INTRODUCTION = """# Reference

Written by `python docs/write_reference.py` from the code; a test compares them. Each key can be given in a recipe's
file, and on the command line as `key=value`, with dots for what is nested: `optimizer.learning_rate=1e-3`,
`objective.0.weight=0.5`.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")


def reference() -> str:
    """Return the page."""
    return (
        "\n".join([INTRODUCTION, "## Keys of a recipe", *recipe(), "## Components", *components(), *commands()]) + "\n"
    )


def recipe() -> Iterator[str]:
    """Yield the tables of a recipe's sections."""
    from pipeline.recipe import Recipe
    from pipeline.sections import Section

    def section(kind: type[Section], place: str) -> Iterator[str]:
        inner: list[tuple[type[Section], str]] = []
        heading = f"`{place}`" if place else "At the top"
        yield f"\n### {heading}\n\n{first_line(kind)}\n\n| Key | Default | |\n|---|---|---|"
        for name, field in kind.model_fields.items():
            below = sections_in(field.annotation)
            inner += [(one, f"{place}.{name}".lstrip(".")) for one in below]
            if field.description or not below:
                default = field.get_default(call_default_factory=True)
                given = "" if field.is_required() or default in ((), {}) else f"`{text(default)}`"
                meaning = field.description or " or ".join(get_args(field.annotation))
                yield f"| `{name}` | {given} | {cell(meaning)} |"
        for one, where in inner:
            yield from section(one, where)

    def sections_in(annotation: Any) -> list[type[Section]]:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            return [annotation]
        arguments = get_args(annotation)
        if get_origin(annotation) is Annotated:
            arguments = arguments[:1]
        return [found for argument in arguments for found in sections_in(argument)]

    yield from section(Recipe, "")


def components() -> Iterator[str]:
    """Yield the tables of what a recipe can name."""
    from pipeline.data.layouts import LAYOUTS
    from pipeline.runs.components import COMPONENTS

    for registry in (*vars(COMPONENTS).values(), LAYOUTS):
        yield f"\n### {registry.name.capitalize()}\n\n{registry.description}\n\n| Name | | Options |\n|---|---|---|"
        for name in registry.names:
            given = ", ".join(f"`{option_of(parameter)}`" for parameter in registry.options(name).values())
            yield f"| `{name}` | {cell(registry.summary(name))} | {given} |"


def option_of(parameter: inspect.Parameter) -> str:
    """Return a component's option with its default; one that has to be given has none."""
    if parameter.default is parameter.empty:
        return parameter.name
    return f"{parameter.name}={text(parameter.default)}"


def commands() -> Iterator[str]:
    """Yield what each command says of itself."""
    yield "\n## Commands\n"
    whole = said()
    yield f"```text\n{whole}\n```"
    for name in re.findall(r"• ([a-z-]+)", whole):
        yield f"\n### `fewmask {name}`\n\n```text\n{said(name)}\n```"


def said(*command: str) -> str:
    """Return the help of a command, 100 columns wide."""
    words = [sys.executable, str(ROOT / "run.py"), *command, "--help"]
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def first_line(kind: type) -> str:
    """Return what a class is."""
    return (kind.__doc__ or "").partition("\n")[0]


def text(value: Any) -> str:
    """Return a default as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else str(value).replace("(", "[").replace(")", "]")


def cell(words: str) -> str:
    """Return text that a cell of a table can hold."""
    return words.replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
