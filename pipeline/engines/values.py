"""The values of one stream's batch in a step, each computed when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from pipeline.engines.sources import Source
    from pipeline.losses.objective import Batch


class StreamValues(Mapping[str, Any]):
    """Values by name: a batch's own tensors, and what sources compute from them.

    A batch of which nothing is needed is not even copied to the device, and a source that no term needs is not called.

    Args:
        load: Returns the batch on the device.
        sources: The source of each name that is not the batch's own.
        streams: The values of every stream of the step, by name: a source may use other streams than its own.
        computing: Returns the context in which sources compute, such as autocast.
    """

    def __init__(
        self,
        load: Callable[[], Batch],
        sources: Mapping[str, Source],
        streams: Mapping[str, StreamValues],
        computing: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.streams = streams
        self._load = load
        self._sources = sources
        self._computing = computing
        self._made: dict[str, Any] = {}
        self._batch: Batch | None = None

    @property
    def batch(self) -> Batch:
        """The batch itself, on the device."""
        if self._batch is None:
            self._batch = self._load()
        return self._batch

    def __getitem__(self, name: str) -> Any:
        """Return a value.

        Raises:
            KeyError: Neither the batch nor a source provides it.
            UserError: A source does not return what it says that it provides.
        """
        if name not in self._sources:
            if name not in self.batch:
                raise KeyError(f"nothing provides {name!r} for these scans; a source's `needs` name what it looks at")
            return self.batch[name]
        if name not in self._made:
            source = self._sources[name]
            with self._computing():
                made = source(self)
            _refuse_incomplete(source, made)
            self._made.update(made)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.batch, **self._sources})

    def __len__(self) -> int:
        return len({**self.batch, **self._sources})


def _refuse_incomplete(source: Source, made: Any) -> None:
    missing = [name for name in source.provides if not isinstance(made, Mapping) or name not in made]
    if missing:
        name = type(source).__name__
        message = f"provides {', '.join(source.provides)}, and did not return {', '.join(missing)}"
        remedy = "let it return a mapping with all that it provides"
        raise UserError("Training stopped.", [Problem(name, "bad-source", message, remedy)])
