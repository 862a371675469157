"""Registries: classes and functions by the names that recipes use for them.

The vocabulary is that of ``monai.utils.ComponentStore``. It is not its subclass, because that store lets a second
component silently replace the first, and because importing MONAI would add seconds to commands that need neither.
"""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, ValidationError, create_model

from pipeline.errors import joined, nearest, plain, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A store of components that refuses duplicates and checks options before it builds.

    Attributes:
        name: The kind of component in the singular, as messages call it.
        description: One line for the list of components.
        given: Parameters that the program supplies, so that a recipe cannot set them.
        taken: Names that no component may have.
        base: The class that every component is derived from; None where any callable will do.
        components: The registered classes and functions, by name.
    """

    name: str
    description: str
    given: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    base: type | None = None
    components: dict[str, Any] = field(default_factory=dict, init=False)

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a component under ``name``.

        Raises:
            ValueError: The name is taken, or is no lower-case identifier.
            TypeError: The component is not derived from the base, or lacks a method, or one takes other arguments.
        """

        def add(component: T) -> T:
            if name in self.components or name in self.taken:
                raise ValueError(f"{self.name} {name!r}: there is one of that name already; choose another")
            if not (name.isidentifier() and name.islower()):
                raise ValueError(f"{self.name} {name!r}: a name has lower-case letters, digits and _")
            if self.base is not None and (lack := _lack_of(component, self.base)):
                raise TypeError(f"{self.name} {name!r} {lack}")
            self.components[name] = component
            return component

        return add

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, in order of registration."""
        return tuple(self.components)

    def __contains__(self, name: object) -> bool:
        return name in self.components

    def __getitem__(self, name: str) -> Any:
        """Return the component called ``name``.

        Raises:
            KeyError: There is none; the message names the nearest.
        """
        if name not in self.components:
            raise KeyError(f"no {self.name} is named {name!r}; {nearest(name, self.names)}")
        return self.components[name]

    def summary(self, name: str) -> str:
        """Return the first line of a component's docstring."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the parameters of a component that a recipe may set."""
        parameters = inspect.signature(self[name]).parameters
        gathers = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {key: value for key, value in parameters.items() if key not in self.given and value.kind not in gathers}

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the summary of each component and the defaults of its options, None for one that must be given."""
        found: dict[str, dict[str, Any]] = {}
        for name in self.names:
            defaults = {key: option.default for key, option in self.options(name).items()}
            known = {key: None if value is inspect.Parameter.empty else value for key, value in defaults.items()}
            found[name] = {"summary": self.summary(name), "options": known}
        return found

    def problems(self, name: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return ``(option, message)`` for all that is wrong with a choice; the option is "" for the name itself."""
        if name not in self:
            return [("", f"no {self.name} is named {name!r}; {nearest(name, self.names)}")]
        known = self.options(name)
        unknown = [(key, _no_option(name, str(key), known)) for key in options if key not in known]
        fields: dict[str, Any] = {
            key: (_type_of(p, self[name]), ... if p.default is p.empty else p.default) for key, p in known.items()
        }
        strict = ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)
        model = create_model(name, __config__=strict, **fields)
        try:
            # Through JSON, as the recipe: strict about types, and a list is still read as a tuple.
            model.model_validate_json(json.dumps({key: options[key] for key in options if key in known}, default=str))
        except ValidationError as error:
            found: dict[str, str] = {}
            for e in error.errors():  # An option that accepts several kinds of value fails once a kind.
                option = str(e["loc"][0])
                before = found.get(str(e["loc"][0]))
                message = f"{plain(e['msg'])}, not {shown(e['input'])}"
                if e["type"] == "missing":
                    message = "is not given"
                    if self.given:  # Another name for one of them looks like an option.
                        message += f", and the program gives {', '.join(sorted(self.given))} alone"
                found[option] = joined(before, message) if before else message
            return unknown + list(found.items())
        return unknown or self._refusal(name, options)

    def _refusal(self, name: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Build a component that takes nothing from the program, since its constructor may refuse the options."""
        if self.given:
            return []
        try:
            self.build(name, options)
        except ValueError as error:
            return [("", f"{name}: {error}")]
        return []

    def build(self, name: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Build a component from a recipe's options and what the program supplies."""
        return self[name](**options, **given)


@dataclass(frozen=True, kw_only=True)
class Components:
    """Everything that a recipe can name."""

    losses: Registry
    sources: Registry
    networks: Registry
    augmentations: Registry
    optimizers: Registry
    schedules: Registry
    metrics: Registry
    postprocessing: Registry


def _no_option(name: str, option: str, known: Mapping[str, Any]) -> str:
    if not known:
        return f"{name} has no options"
    return f"{name} has no such option; {nearest(option, known)}"


def _lack_of(component: Any, base: type) -> str:
    """Say what a component lacks of what its base asks for; nothing, if it has all.

    The methods are those that the base marks as abstract, with their arguments, and those of its ``called_with``.
    """
    if not (inspect.isclass(component) and issubclass(component, base)):
        derived: list[type] = base.__subclasses__()
        kinds = [kind.__name__ for kind in derived if kind.__module__ == base.__module__]
        return f"is no class derived from {' or '.join(kinds or [base.__name__])}"
    abstract = {
        name: tuple(inspect.signature(method).parameters)[1:]
        for parent in component.__mro__
        for name, method in vars(parent).items()
        if getattr(method, "__isabstractmethod__", False) and inspect.isfunction(method)
    }
    for name, arguments in (abstract | getattr(component, "called_with", {})).items():
        method = getattr(component, name)
        called = f"{name}({', '.join(('self', *arguments))})"
        if getattr(method, "__isabstractmethod__", False) or method is getattr(base, name, None):
            return f"has no {called}"
        try:
            inspect.signature(method).bind(None, *arguments)
        except TypeError:
            return f"is called as {called}, and has {name}{inspect.signature(method)}"
    return ""


def _type_of(parameter: inspect.Parameter, component: Any) -> Any:
    """Return a parameter's type; Any where it has none, or one that its module imports for type checking only."""
    if not isinstance(parameter.annotation, str):
        if parameter.annotation is parameter.empty:
            return Any
        return parameter.annotation
    # A class may inherit its constructor, or fields of it: then the parent's module has the names in the annotation.
    classes: tuple[type, ...] = ()
    if inspect.isclass(component):
        classes = inspect.getmro(component)
    names: dict[str, Any] = {}
    for part in (*reversed(classes), component):
        names |= vars(sys.modules[part.__module__])
    try:
        return eval(parameter.annotation, names)  # noqa: S307 - the modules' own text
    except NameError:
        return Any
