"""Named components: a recipe says a name, a registry answers with a class or a function."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from monai.utils import ComponentStore
from pydantic import ConfigDict, ValidationError, create_model

from pipeline.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class Registry(ComponentStore):
    """A MONAI component store that refuses duplicates and checks options before it builds.

    Args:
        name: The kind of component in the singular, as messages should call it.
        description: One line for the list of components.
        given: Parameters that the program supplies and that a recipe cannot set.
    """

    def __init__(self, name: str, description: str, given: tuple[str, ...] = ()) -> None:
        super().__init__(name, description)
        self.given = given

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a component under ``name``.

        Raises:
            ValueError: The name is taken or is no identifier.
        """

        def add(component: T) -> T:
            if name in self:
                raise ValueError(f"there is a {self.name} named {name!r} already; choose another name")
            summary = (inspect.getdoc(component) or "").partition("\n")[0]
            self.add(name, summary, component)
            return component

        return add

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the parameters of component ``name`` that a recipe may set."""
        signature = inspect.signature(self[name], eval_str=True)
        return {key: value for key, value in signature.parameters.items() if key not in self.given}

    def problems(self, name: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (option, message) for everything wrong with a choice; the option is "" for the name itself."""
        if name not in self:
            return [("", f"no {self.name} is named {name!r}; {nearest(name, self.names)}")]
        parameters = self.parameters(name)
        unknown = [(key, f"{name} has no such option; {nearest(key, parameters) if parameters else 'it has none'}")
                   for key in options if key not in parameters]
        fields = {key: (p.annotation, ... if p.default is p.empty else p.default) for key, p in parameters.items()}
        model = create_model(name, __config__=ConfigDict(arbitrary_types_allowed=True), **fields)  # type: ignore[call-overload]
        try:
            model.model_validate({key: value for key, value in options.items() if key in parameters})
        except ValidationError as error:
            return unknown + [(".".join(map(str, e["loc"])), f"{e['msg']}, not {e['input']!r}") for e in error.errors()]
        return unknown

    def build(self, name: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Build component ``name`` from a recipe's options and what the program supplies."""
        return self[name](**options, **given)
