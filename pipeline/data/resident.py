"""Prepared cases in the memory of the device that trains: a small dataset need not travel in every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.data.annotation import ANNOTATION, IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.types import Case


@dataclass
class Resident:
    """Cases on a device, each brought there when it is first read.

    Attributes:
        read: Returns a prepared case's arrays: ``image`` and ``annotation`` ``[C, X, Y, Z]``, ``locations``.
        device: Where image and annotation go; locations stay with the host, which draws the patches.
    """

    read: Callable[[Case], dict[str, Any]]
    device: str
    _cases: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def get(self, case: Case) -> dict[str, Any]:
        """Return a case's image and annotation as tensors on the device, and its locations."""
        if case.id not in self._cases:
            arrays = self.read(case)
            here = {key: torch.from_numpy(np.array(arrays[key])).to(self.device) for key in (IMAGE, ANNOTATION)}
            self._cases[case.id] = arrays | here
        return self._cases[case.id]
