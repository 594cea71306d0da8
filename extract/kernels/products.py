# mypy: ignore-errors
# A code generator, as `simd` is.
"""Products of float32 matrices on one core, in the caches at the speed of its multipliers.

A block of `_ROWS` rows by two vectors stays in registers while the depth is walked through: as many
sums as hide the latency of a multiplication, and few loads for each. PyTorch's products are MKL's,
which keeps to half the registers of a processor with 512-bit ones that Intel did not make. And
here a result can be used while it is in the caches.
"""

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from extract.kernels import simd
from extract.kernels.compiling import compiled, stamp
from extract.kernels.simd import (
    FLOAT,
    LANES,
    REGISTERS,
    is_flat,
    multiply_add,
    splat_value,
)

PAIR = 2 * LANES  # columns of a block

STAMP = stamp(simd)
_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(FLOAT, LANES)
_FEW = 4
_ROWS = 12 if REGISTERS == 32 else 6
# Of 32 registers 24 hold sums, of 16 twelve; the others hold what is multiplied.


def _define_block(rows: int, vectors: int):
    """Return the product of `rows` rows with `vectors` vectors of columns."""

    @intrinsic
    def block(
        typingctx, a, at_a, row_a, step_a, b, at_b, row_b, c, at_c, row_c, depth, next_a, next_b
    ):
        """C = A @ B for flat float32 arrays.

        A's element (i, k) lies at at_a + i * row_a + k * step_a, the vectors of B's row k at
        at_b + k * row_b, those of C's row i at at_c + i * row_c; the depth is 1 or more. For
        next_a and next_b see `multiply`.
        """
        if not (is_flat(a) and is_flat(b) and is_flat(c)):
            return None

        def codegen(context, builder, sig, args):
            _, at_a, row_a, step_a, _, at_b, row_b, _, at_c, row_c, depth, next_a, next_b = args
            a, b, c = (
                builder.gep(context.make_array(sig.args[n])(context, builder, args[n]).data, [at])
                for n, at in ((0, at_a), (4, at_b), (7, at_c))
            )
            function = _block_function(builder.module, rows, vectors)
            builder.call(function, [a, row_a, step_a, b, row_b, c, row_c, depth, next_a, next_b])
            return context.get_dummy_value()

        return types.void(a, *[types.intp] * 3, b, *[types.intp] * 2, c, *[types.intp] * 5), codegen

    return block


def _block_function(module, rows: int, vectors: int):
    """Return the LLVM function of a block.

    It stands alone: LLVM runs out of registers where it is one loop of many in a function.
    """
    name = f"feat_block_{rows}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    pointer = FLOAT.as_pointer()
    arguments = [pointer, _INDEX, _INDEX, pointer, _INDEX, pointer, *[_INDEX] * 4]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, row_a, step_a, b, row_b, c, row_c, depth, next_a, next_b = function.args
    before, loop, done = (function.append_basic_block(name) for name in ("before", "loop", "done"))
    builder = ir.IRBuilder(before)
    row_starts = [builder.mul(row_a, _INDEX(row)) for row in range(rows)]
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INDEX)
    sums = [[builder.phi(_VECTOR) for _ in range(vectors)] for _ in range(rows)]
    column = builder.gep(a, [builder.mul(k, step_a)])
    line = builder.gep(b, [builder.mul(k, row_b)])
    _prefetch(builder, builder.gep(column, [next_a]))
    later = builder.gep(line, [next_b])
    for place in _vectors_at(builder, later, vectors):
        _prefetch(builder, place)
    of_b = [_aligned(builder.load(place)) for place in _vectors_at(builder, line, vectors)]
    results = []
    nothing = ir.FunctionType(ir.VoidType(), [])
    for row, start in zip(sums, row_starts, strict=True):
        # Or LLVM would load the factors of all rows first, and run out of registers.
        builder.asm(nothing, "", "~{memory}", [], side_effect=True)
        factor = splat_value(builder, builder.load(builder.gep(column, [start])), LANES)
        results.append(
            [
                multiply_add(builder, factor, vector, total)
                for vector, total in zip(of_b, row, strict=True)
            ]
        )
    after = builder.add(k, _INDEX(1))
    k.add_incoming(_INDEX(0), before)
    k.add_incoming(after, loop)
    for row, of_row in zip(sums, results, strict=True):
        for total, result in zip(row, of_row, strict=True):
            total.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), before)
            total.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", after, depth), loop, done)
    builder.position_at_end(done)
    for row, of_row in enumerate(results):
        line = builder.gep(c, [builder.mul(row_c, _INDEX(row))])
        for place, result in zip(_vectors_at(builder, line, vectors), of_row, strict=True):
            _aligned(builder.store(result, place))
    builder.ret_void()
    return function


def _vectors_at(builder, start, count):
    """Emit the addresses of vectors that follow one another."""
    first = builder.bitcast(start, _VECTOR.as_pointer())
    return [builder.gep(first, [_INDEX(n)]) for n in range(count)]


def _prefetch(builder, place):
    """Emit the wish for a cache line in the second cache."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = builder.module.globals.get("llvm.prefetch.p0i8")
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = ir.Function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.bitcast(place, byte), number(0), number(2), number(1)])


def _aligned(access):
    access.align = 4
    return access


def _define_columns(vectors: int):
    """Return the product of any number of rows with `vectors` vectors of columns."""
    many, few, one = (_define_block(rows, vectors) for rows in (_ROWS, _FEW, 1))

    @njit
    def columns(
        a, at_a, row_a, step_a, b, at_b, row_b, c, at_c, row_c, rows, depth, next_a, next_b
    ):
        done = 0
        while done < rows:
            left = rows - done
            if left < _ROWS and rows >= _FEW:
                done = min(done, rows - _FEW)  # some rows may be computed twice
            i, k = at_a + done * row_a, at_c + done * row_c
            if left >= _ROWS:
                many(a, i, row_a, step_a, b, at_b, row_b, c, k, row_c, depth, next_a, next_b)
                done += _ROWS
            elif rows >= _FEW:
                few(a, i, row_a, step_a, b, at_b, row_b, c, k, row_c, depth, next_a, next_b)
                done += _FEW
            else:
                one(a, i, row_a, step_a, b, at_b, row_b, c, k, row_c, depth, next_a, next_b)
                done += 1

    return columns


multiply_vector, multiply_pair = _define_columns(1), _define_columns(2)


@njit
def multiply(
    a, at_a, row_a, step_a, b, at_b, row_b, c, at_c, row_c, rows, depth, columns, next_a, next_b
):
    """Fill C, `rows` by `columns`, with A @ B; all are flat float32.

    A's element (i, k) lies at `at_a + i * row_a + k * step_a`, B's row k begins at
    `at_b + k * row_b` and C's row i at `at_c + i * row_c`. The depth is 1 or more, the columns are
    `LANES` or more. What lies `next_a` floats behind each of A's columns and `next_b` behind each
    of B's rows is asked for on the way: what the next product will read, or with 0 nothing new.
    """
    done = 0
    while columns - done >= PAIR:
        i, k = at_b + done, at_c + done
        multiply_pair(a, at_a, row_a, step_a, b, i, row_b, c, k, row_c, rows, depth, next_a, next_b)
        done += PAIR
    while done < columns:
        done = min(done, columns - LANES)  # some columns may be computed twice
        i, k = at_b + done, at_c + done
        multiply_vector(
            a, at_a, row_a, step_a, b, i, row_b, c, k, row_c, rows, depth, next_a, next_b
        )
        done += LANES


@compiled(nogil=True)
def multiply_batch(a, b, c, rows, depth, columns, stamp=STAMP):
    """Fill `c` (P, rows, columns) with `a` (P, rows, depth) @ `b` (P, depth, columns), all flat."""
    for p in range(len(a) // (rows * depth)):
        at_a, at_b, at_c = p * rows * depth, p * depth * columns, p * rows * columns
        multiply(a, at_a, depth, 1, b, at_b, columns, c, at_c, columns, rows, depth, columns, 0, 0)
