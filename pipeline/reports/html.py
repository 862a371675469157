"""Pages that are one file each, need no other, and may run and load nothing but what is in them.

Everything that comes from the user's files reaches a page through Jinja's escaping or as JSON in a data block, which
the script puts on the screen as text. The security policy names the one style and the one script by their hashes, and
forbids every request, so that even a name that slipped through could neither run nor tell anybody.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipeline.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def write_page(path: Path, template: str, scripts: Sequence[str], content: Mapping[str, Any]) -> None:
    """Render a template piece by piece, so that a large page is never whole in memory."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    script = "\n".join(map(asset, scripts))
    style = asset("report.css")
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template)
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for piece in page.generate(content, policy=policy, script=Markup(script), style=Markup(style)):
            stream.write(piece)


def asset(name: str) -> str:
    """Return a template, a style or a script of this package."""
    return files("pipeline.reports").joinpath("assets", name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Return what a security policy calls a script or a style by.

    >>> digest("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json(content: object) -> Markup:
    """Return JSON that can stand inside a script element: no character of it can end the element."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
