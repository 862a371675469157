"""JSON as datasets' lists and runs' own files use it: of bounded size, without repeated keys."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.files import atomic_write, open_text, regular

if TYPE_CHECKING:
    from pathlib import Path

# A list of tens of thousands of cases; parsed, it takes up to twenty times as much memory.
MAX_BYTES = 8_000_000


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """Read a JSON file of at most so many bytes, with or without a byte order mark.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, or too large, or nested too deeply, or has a key twice in one object.
    """
    with regular(path).open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has over {most // 1_000_000} MB")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, content: object) -> None:
    """Write strict, indented JSON, whole or not at all.

    Args:
        path: The file to write; its folder must exist.
        content: Dictionaries, lists, text, finite numbers, booleans and None.

    Raises:
        ValueError: There is a NaN or an infinity in it, which JSON does not know.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as partial, open_text(partial) as file:
        file.write(text + "\n")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {name!r} stands twice in one object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
