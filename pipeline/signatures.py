"""Arguments that a program gives, against the types that a public function names for them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from os import PathLike
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import Problem, UserError, shown

# An integer is a number here too, but a text is no list of texts, and "off" no switch.
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def typed(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Have a function refuse arguments of other types than its annotations, before it does anything.

    Numbers of NumPy become Python's. A call that does not fit the signature is a ``TypeError``, as of any function.

    >>> @typed
    ... def train(folds: int = 2) -> None: ...
    >>> train(folds="five")
    Traceback (most recent call last):
    pipeline.errors.UserError: The arguments cannot be used.
      - folds: is 'five' [bad-options]
        remedy: give int
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}: {function.__name__}{signature}") from None
        bound.arguments = checked(function, bound.arguments)
        return function(*bound.args, **bound.kwargs)

    return call


def checked(owner: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with Python's numbers; refuse those not of the types that a function or a class names for them.

    Raises:
        UserError: Of all values that are not.
    """
    types = _types_of(owner)
    plain = {name: _plain(value) for name, value in given.items()}
    problems = [
        Problem(name, "bad-options", f"is {shown(value)}", _remedy(value, types[name]))
        for name, value in plain.items()
        if not _fits(value, types[name])
    ]
    if problems:
        raise UserError("The arguments cannot be used.", problems)
    return plain


@cache
def _types_of(owner: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of parameters or fields; what is returned may be of a module that is not imported yet."""
    annotations = {name: text for name, text in owner.__annotations__.items() if name != "return"}
    return get_type_hints(SimpleNamespace(__annotations__=annotations), vars(sys.modules[owner.__module__]))


def _fits(value: Any, kind: Any) -> bool:
    try:
        # TypeAdapter takes no config for a bare dataclass or model; within a tuple it does.
        TypeAdapter(tuple[kind], config=STRICT).validate_python((value,))
    except ValidationError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers in place of those of NumPy, which is not imported for it."""
    if getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _remedy(value: Any, kind: Any) -> str:
    if hasattr(value, "shape") and _fits("a path", kind):
        return "give the path of a file; images and arrays are for fewmask.load(run).predict(image)"
    if isinstance(value, str | PathLike) and _fits([value], kind):
        return f"give a list, [{shown(value)}]"
    words = re.sub(r"(\w+\.)+", "", inspect.formatannotation(kind))
    return "give " + re.sub(r"Literal\[(.+?)\]", r"one of \1", words)
