"""Losses that PyTorch's compiler cannot trace."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def untraced(forward: Callable[P, R]) -> Callable[P, R]:
    """Let a compiled program call a function as it is, and go on compiled after it."""

    @wraps(forward)
    def call(*values: P.args, **named: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # Elsewhere its wrapper would load the compiler, which takes seconds.
            plain: Callable[P, R] = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
            return plain(*values, **named)
        return forward(*values, **named)

    return call
