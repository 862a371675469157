"""The pair sums of N-cut on a CUDA device: a Triton kernel."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.losses.ncut_layout import PairLayout, pack_base_2, pair_tables

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.losses.ncut_layout import PairTables, Window

# Voxels of one program.
BLOCK = 256


def available() -> bool:
    """Return whether Triton is there; PyTorch for CUDA brings it along on Linux."""
    return importlib.util.find_spec("triton") is not None


def triton_pair_sums(q: Tensor, features: Tensor, window: Window) -> Tensor:
    """Return ``W q`` as :func:`torch_pair_sums` does, in float32 on a CUDA device, by a Triton kernel."""
    layout = PairLayout.of(q, window)
    tables = pair_tables(layout, window, q.device)
    rows = pack_base_2(layout, q, features)
    sums = rows.new_empty(q.shape[1], rows.shape[1])
    run(rows, sums, tables, layout.margin, layout.voxels)
    return layout.unpack(sums)


def run(rows: Tensor, sums: Tensor, tables: PairTables, first: int, voxels: int) -> None:
    """Write the pair sums of consecutive voxels.

    Each program owns its voxels: no two add to one place, and every sum is formed in one order.

    Args:
        rows: ``[K + C, length]``: q, then features, float32.
        sums: ``[K, length]``, to be written.
        tables: The offsets.
        first: The first voxel.
        voxels: How many there are.
    """
    q = rows[: len(sums)]
    features = rows[len(sums) :]
    grid = (-(-voxels // BLOCK),)
    pairs = len(tables.shifts)
    _kernel()[grid](
        tuple(q), tuple(features), tuple(sums), tables.shifts, tables.exponents, first, first + voxels, pairs, BLOCK
    )


@cache
def _kernel() -> Any:
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def pair_sums(q, features, sums, shifts, exponents, first, end, pairs, block: tl.constexpr):  # type: ignore[no-untyped-def]
        u = first + tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        ours = u < end
        here = [tl.load(row + u, mask=ours) for row in features]
        total = [tl.load(row + u, mask=ours) for row in q]
        for n in range(pairs):
            v = u + tl.load(shifts + n)
            exponent = tl.load(exponents + n)
            for c in tl.static_range(len(features)):
                difference = here[c] - tl.load(features[c] + v, mask=ours)
                exponent -= difference * difference
            weight = tl.exp2(exponent)
            after = ()
            for k in tl.static_range(len(q)):
                after += (total[k] + weight * tl.load(q[k] + v, mask=ours),)  # type: ignore[assignment]
            total = after  # type: ignore[assignment]
        for k in tl.static_range(len(q)):
            tl.store(sums[k] + u, total[k], mask=ours)

    return pair_sums
