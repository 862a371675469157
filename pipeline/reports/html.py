"""Write HTML pages that are single files, and that run and load nothing but what is in them.

Text from users' files reaches a page through Jinja's escaping, or as JSON in a data block, which the script shows as
text. The page's security policy allows one style and one script, by their hashes, and forbids every request. So even a
name that was not escaped could neither run nor send anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pipeline.files import atomic_write
from pipeline.reports.axes import COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def write_page(path: Path, template: str, scripts: Sequence[str], content: Mapping[str, Any]) -> None:
    """Render a template to a file, piece by piece, so that a large page is never whole in memory.

    Args:
        path: The file to write, complete or not at all.
        template: The name of a template in ``assets``.
        scripts: Names of scripts in ``assets``, which become one.
        content: The variables of the template.
    """
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
    environment.filters["coded"] = coded
    environment.globals |= {"colours": COLOURS["k"], "key": _key_of(content["data"])}
    page = environment.get_template(template)
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for piece in page.generate(content, policy=policy, script=Markup(script), style=Markup(style)):
            stream.write(piece)


def coded(text: str) -> Markup:
    """Return text, escaped, with what stands between two backticks as code.

    >>> coded("`fewmask train --folds 5` scores <all>")
    Markup('<code>fewmask train --folds 5</code> scores &lt;all&gt;')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # A backtick of a name.
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))


def _key_of(data: str) -> str:
    """Return what a reader's notes on a page are kept under: equal for equal numbers alone."""
    return hashlib.sha256(data.encode()).hexdigest()[:16]


def asset(name: str) -> str:
    """Return the text of a template, a style sheet or a script in ``assets``."""
    return files("pipeline.reports").joinpath("assets", name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Return the hash by which a security policy allows a script or a style.

    >>> digest("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json(content: object) -> Markup:
    """Return JSON for a script element, in which no character can end the element."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
