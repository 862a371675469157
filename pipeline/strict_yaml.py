"""YAML as a recipe uses it: the scalars of YAML 1.2, plain data alone, no repeated keys."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A recipe is a page or two; PyYAML takes up to ten seconds for a megabyte.
MAX_CHARACTERS = 60_000
MAX_DEPTH = 20
WIDTH = 118


class _StrictDumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or 1.2 would read as something else, such as ``on`` and ``1e-4``."""


class _StrictLoader(yaml.SafeLoader):
    """Reads the plain scalars of YAML 1.2 and keys of text; refuses tags, aliases and repeated keys.

    PyYAML follows YAML 1.1: it reads ``1e-4`` as text, the key ``on`` as true, and keeps the last of two equal keys.
    """

    depth = 0
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases are not allowed in a recipe", parent and parent.start_mark
            )
        # `!!timestamp` and its like make objects of text, and fail on other text in as many ways.
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.composer.ComposerError(None, None, f"tags such as {tag} are not allowed", event.start_mark)
        if self.depth == MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested over {MAX_DEPTH} deep", parent and parent.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        content: dict[Any, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key.start_mark)
            if key.value in content:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            content[self._text(key)] = self.construct_object(value, deep=deep)
        return content

    def construct_scalar(self, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._text(node)
        return super().construct_scalar(node)

    @staticmethod
    def _text(node: Any) -> str:
        """Return a scalar's text; refuse half of a surrogate pair, which an escape can make and no file can hold."""
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise yaml.constructor.ConstructorError(None, None, "half a surrogate pair", node.start_mark) from None
        return str(node.value)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    for _side in (_StrictLoader, _StrictDumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


# PyYAML's own would read 017 as octal and fail on 08.
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def write_yaml(content: Any, comments: Mapping[str, str] | None = None) -> str:
    """Return plain data as YAML that reads the same under YAML 1.1 and 1.2.

    Args:
        content: Dictionaries, lists, text, numbers.
        comments: What to write above a key, by its dotted path.
    """
    # Lists and mappings of plain values stand on one line, as a person would write them.
    text = yaml.dump(
        content, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=WIDTH
    )
    lines = text.splitlines(keepends=True)
    for number, column, path in sorted(_places(yaml.compose(text, _StrictLoader)), reverse=True):
        if comments and path in comments:
            indent = " " * column + "# "
            lines.insert(
                number, textwrap.fill(comments[path], WIDTH, initial_indent=indent, subsequent_indent=indent) + "\n"
            )
    return "".join(lines)


def _places(node: Any, path: str = "") -> Iterator[tuple[int, int, str]]:
    """Yield line, column and dotted path of every key that has a line of its own."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return
    for key, value in node.value:
        inner = f"{path}.{key.value}" if path else key.value
        yield key.start_mark.line, key.start_mark.column, inner
        yield from _places(value, inner)


def read_yaml(text: str, where: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        where: What to call it in messages.

    Raises:
        UserError: It is no YAML, too large or too deep, or holds an alias, a key twice, or a tag that stands for code.
    """
    if len(text) > MAX_CHARACTERS:
        message = f"has {len(text)} characters, over {MAX_CHARACTERS}"
        raise UserError(
            "The recipe cannot be read.", [Problem(where, "too-large", message, "a recipe is a page of YAML")]
        )
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader, made stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split()) or "nested too deeply"
        raise UserError(
            "The recipe cannot be read.", [Problem(where, "bad-yaml", message, "correct the YAML there")]
        ) from None
