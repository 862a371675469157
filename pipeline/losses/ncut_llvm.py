"""The pair sums of N-cut on a CPU: a kernel written in LLVM's own language, and compiled when it is first needed.

PyTorch's operators write every intermediate result to memory; this kernel keeps them, and the sums, in vector
registers. The compiler comes with llvmlite, a wheel, so nothing else has to be installed; compiling takes about a tenth
of a second. Vector operations are written out, so that speed does not depend on automatic vectorisation.
"""

from __future__ import annotations

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.losses.ncut_layout import PairLayout, pack_base_2, pair_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from pipeline.losses.ncut_layout import PairTables, Window

# Adding this rounds a small float to an integer, which then stands in the lowest bits.
ROUNDER = 1.5 * 2.0**23

# The least exponent of 2: weights below it change nothing, and denormal numbers would be slow.
LEAST = -87.0


def available() -> bool:
    """Return whether llvmlite is there."""
    return importlib.util.find_spec("llvmlite") is not None


def llvm_pair_sums(q: Tensor, features: Tensor, window: Window) -> Tensor:
    """Return ``W q`` as :func:`torch_pair_sums` does, in float32 on the CPU, by a kernel compiled in this process."""
    layout = PairLayout.of(q, window)
    tables = pair_tables(layout, window, q.device)
    rows = pack_base_2(layout, q, features)
    sums = rows.new_empty(q.shape[1], rows.shape[1])
    run(rows, sums, tables, layout.pieces(), layout.strides[-2], layout.size[-1])
    return layout.unpack(sums)


def run(
    rows: Tensor, sums: Tensor, tables: PairTables, pieces: Sequence[tuple[int, int]], stride: int, columns: int
) -> None:
    """Write the pair sums of all voxels. Behind each line, up to a whole vector, the padding is written to as well.

    Args:
        rows: ``[K + C, length]``: q, then features, float32.
        sums: ``[K, length]``, to be written.
        tables: The offsets.
        pieces: From :meth:`PairLayout.pieces`.
        stride: Distance from one line of voxels to the next.
        columns: Voxels in a line.
    """
    kernel, lanes = compiled(len(sums), len(rows) - len(sums))
    fixed = (rows.data_ptr(), sums.data_ptr(), rows.shape[1], tables.shifts.data_ptr(), tables.exponents.data_ptr())
    loops = (tables.planes.data_ptr(), len(tables.planes) - 1, stride, -(-columns // lanes))

    def work(thread: int) -> None:
        for first, height in pieces[thread::threads]:
            kernel(*fixed, *loops, first, height)

    # Each sum has a fixed order, whichever thread computes it. The threads end here, so that none is alive at a fork.
    threads = min(torch.get_num_threads(), len(pieces))
    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


@cache
def compiled(classes: int, channels: int) -> tuple[Callable[..., None], int]:
    """Return the kernel for a number of classes and channels on this processor, and its vectors' length."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    lanes = lanes_here(features)
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    module = binding.parse_assembly(source(classes, channels, lanes))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    pointer = ctypes.c_void_p
    number = ctypes.c_int64
    signature = ctypes.CFUNCTYPE(None, pointer, pointer, number, pointer, pointer, pointer, *[number] * 5)
    kernel = signature(engine.get_function_address("pair_sums"))
    kernel.engine = engine  # type: ignore[attr-defined]  # the code lives as long as its engine
    return kernel, lanes


def lanes_here(features: Mapping[str, bool]) -> int:
    """Return the number of floats in a vector, such that a kernel's sums and weights fit a processor's registers."""
    return 16 if features.get("avx512f") else 8


def powers_of_2() -> list[float]:
    """Return the coefficients, from t^0 up, of a polynomial that is 2^t for |t| <= 1/2 to 2 parts in 10 million."""
    doubled = np.polynomial.Chebyshev.interpolate(lambda t: 2 ** (t / 2), 5).convert(kind=np.polynomial.Polynomial)
    return [float(coefficient) * 2**n for n, coefficient in enumerate(doubled.coef)]


def source(classes: int, channels: int, lanes: int) -> str:
    """Return the kernel in LLVM's language.

    For each vector of voxels u, plane of the window and offset, with ``v = u + shift``::

        w = 2^(exponent - sum over channels of (f_u - f_v)^2)
        sums_k += w q_k(v)  for each class k

    The loops over vectors, planes, lines and offsets are nested in this order, so that what is read stays in the
    first-level cache.
    """
    return str(_Kernel(classes, channels, lanes).module)


class _Kernel:
    """Builds the kernel for a number of classes, of channels and of lanes in a vector."""

    def __init__(self, classes: int, channels: int, lanes: int) -> None:
        from llvmlite import ir

        self.ir = ir
        self.classes = classes
        self.channels = channels
        self.lanes = lanes
        self.i64 = ir.IntType(64)
        self.float = ir.FloatType()
        pointer = ir.PointerType()
        self.vector = ir.VectorType(self.float, lanes)
        self.whole = ir.VectorType(ir.IntType(32), lanes)
        self.module = ir.Module()
        self.fma, self.maximum = (
            ir.Function(self.module, ir.FunctionType(self.vector, [self.vector] * n), f"llvm.{name}.v{lanes}f32")
            for name, n in (("fma", 3), ("maxnum", 2))
        )
        arguments = [pointer, pointer, self.i64, pointer, pointer, pointer, *[self.i64] * 5]
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), arguments), "pair_sums")
        self.build = ir.IRBuilder(function.append_basic_block())
        rows, sums, length, shifts, exponents, planes, groups, stride, blocks, first, height = function.args
        self.rows = rows
        self.length = length
        self.shifts = shifts
        self.exponents = exponents
        build = self.build
        with self.loop(self.i64(0), blocks) as block, self.loop(self.i64(0), groups) as group:
            low = self.number(planes, group)
            high = self.number(planes, build.add(group, self.i64(1)))
            # A voxel and itself: weight 1.
            before = build.select(build.icmp_signed("==", group, self.i64(0)), rows, sums)
            with self.loop(self.i64(0), height) as row:
                u = build.add(first, build.add(build.mul(row, stride), build.mul(block, self.i64(lanes))))
                after = self.over_offsets(u, low, high, [self.load(before, u, k) for k in range(classes)])
                for k, value in enumerate(after):
                    build.store(value, self.address(sums, u, k), align=4)
        build.ret_void()

    def over_offsets(self, u: Any, low: Any, high: Any, sums: list[Any]) -> list[Any]:
        """Add to the sums at ``u`` what offsets ``low`` to ``high`` contribute."""
        build = self.build
        here = [self.load(self.rows, u, self.classes + c) for c in range(self.channels)]
        entry = build.block
        with self.loop(low, high) as n:
            running = [build.phi(self.vector) for _ in sums]
            v = build.add(u, self.number(self.shifts, n))
            exponent = self.splat(build.load(build.gep(self.exponents, [n], source_etype=self.float), typ=self.float))
            for c, value in enumerate(here):
                difference = build.fsub(value, self.load(self.rows, v, self.classes + c))
                exponent = build.call(self.fma, [build.fneg(difference), difference, exponent])
            weight = self.power_of_2(exponent)
            after = [build.call(self.fma, [weight, self.load(self.rows, v, k), s]) for k, s in enumerate(running)]
            for phi, start, end in zip(running, sums, after, strict=True):
                phi.add_incoming(start, entry)
                phi.add_incoming(end, build.block)
        return after

    def power_of_2(self, x: Any) -> Any:
        """Return 2^x for x from ``LEAST`` to 126."""
        build = self.build
        x = build.call(self.maximum, [x, self.constant(LEAST)])
        rounded = build.fadd(x, self.constant(ROUNDER))
        rest = build.fsub(x, build.fsub(rounded, self.constant(ROUNDER)))
        *lower, highest = powers_of_2()
        power = self.constant(highest)
        for coefficient in reversed(lower):
            power = build.call(self.fma, [power, rest, self.constant(coefficient)])
        # The whole part, moved to where a float has its exponent.
        shift = self.ir.Constant(self.whole, [23] * self.lanes)
        whole = build.shl(build.bitcast(rounded, self.whole), shift)
        return build.bitcast(build.add(build.bitcast(power, self.whole), whole), self.vector)

    @contextmanager
    def loop(self, low: Any, high: Any) -> Iterator[Any]:
        """Repeat what is built inside for low, low + 1, …, high - 1, at least once."""
        build = self.build
        entry = self.build.block
        body = build.append_basic_block()
        done = build.append_basic_block()
        build.branch(body)
        build.position_at_end(body)
        n = build.phi(self.i64)
        n.add_incoming(low, entry)
        yield n
        following = build.add(n, self.i64(1))
        n.add_incoming(following, build.block)
        build.cbranch(build.icmp_signed("<", following, high), body, done)
        build.position_at_end(done)

    def address(self, base: Any, position: Any, channel: int) -> Any:
        index = self.build.add(position, self.build.mul(self.length, self.i64(channel)))
        return self.build.gep(base, [index], source_etype=self.float)

    def load(self, base: Any, position: Any, channel: int) -> Any:
        return self.build.load(self.address(base, position, channel), typ=self.vector, align=4)

    def number(self, base: Any, position: Any) -> Any:
        return self.build.load(self.build.gep(base, [position], source_etype=self.i64), typ=self.i64)

    def splat(self, value: Any) -> Any:
        ir = self.ir
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.build.insert_element(nothing, value, ir.IntType(32)(0))
        return self.build.shuffle_vector(first, nothing, ir.Constant(self.whole, [0] * self.lanes))

    def constant(self, value: float) -> Any:
        return self.ir.Constant(self.vector, [value] * self.lanes)
