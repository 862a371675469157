"""A mapping that keeps many small records in little memory."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import MutableMapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")


class Packed(MutableMapping[str, T], Generic[T]):
    """A mapping of names to records that unpacks a record whenever it is asked for.

    A record of nested tuples takes thousands of bytes as objects and some hundred packed; and worker processes, which
    write to every object that they so much as look at, go on sharing what is packed.

    >>> packed = Packed({"a": (1.0, 2.0)})
    >>> packed["b"] = (3.0,)
    >>> packed["a"], len(packed), list(packed)
    ((1.0, 2.0), 2, ['a', 'b'])
    """

    def __init__(self, records: Mapping[str, T] = MappingProxyType({})) -> None:
        self._packed: dict[str, bytes] = {}
        self.update(records)

    def __getitem__(self, name: str) -> T:
        record: T = pickle.loads(zlib.decompress(self._packed[name]))  # noqa: S301 - of our own making
        return record

    def __setitem__(self, name: str, record: T) -> None:
        self._packed[name] = zlib.compress(pickle.dumps(record))

    def __delitem__(self, name: str) -> None:
        del self._packed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)
