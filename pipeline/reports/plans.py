"""Plans, and findings about the machine, as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.reports.tables import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Setting(Protocol):
    """One setting of a plan, as :class:`pipeline.planning.plan.Choice`."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def value(self) -> Any: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102


class Found(Protocol):
    """One thing that a machine has, as :class:`pipeline.planning.doctor.Finding`."""

    @property
    def what(self) -> str: ...  # noqa: D102
    @property
    def has(self) -> str: ...  # noqa: D102
    @property
    def needs(self) -> str: ...  # noqa: D102
    @property
    def remedy(self) -> str: ...  # noqa: D102


def plan_table(settings: Iterable[Setting]) -> Table:
    """Return a table of a plan: setting, value, reason."""
    return _table(("setting", "value", "reason"), ((each.key, brief(each.value), each.reason) for each in settings))


def machine_table(findings: Iterable[Found]) -> Table:
    """Return a table of what a machine has, what a plan needs of it, and what to do if that is too little."""
    rows = ((each.what, each.has, each.needs, f"SHORT: {each.remedy}" if each.remedy else "") for each in findings)
    return _table(("machine", "has", "plan takes", ""), rows)


def brief(value: object) -> str:
    """Return a setting as text for people: tuples, which have a number for each axis, with x between the numbers.

    >>> brief((40, 56, 40)), brief([[2, 2, 1], [2, 2, 2]]), brief(()), brief([16, 32])
    ('40 x 56 x 40', '2x2x1 2x2x2', 'none', '16, 32')
    """
    if isinstance(value, tuple) and value and all(isinstance(item, (int, float)) for item in value):
        return " x ".join(f"{item:g}" for item in value)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return " ".join("x".join(map(str, item)) for item in value)
    if isinstance(value, (tuple, list)):
        return ", ".join(str(getattr(item, "scheme", item)) for item in value) or "none"
    return str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    return table
