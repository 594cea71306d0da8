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

_PAIR = 2 * LANES  # columns of a block

STAMP = stamp(simd)
_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(FLOAT, LANES)
_FEW = 4
_ROWS = 12 if REGISTERS == 32 else 6
# Of 32 registers 24 hold sums, of 16 twelve; the others hold what is multiplied.


def _define_block(rows: int, vectors: int):
    """Return the product of `rows` rows with `vectors` vectors of columns."""

    @intrinsic
    def block(typingctx, a, at_a, b, at_b, c, at_c, depth, columns):
        """C = A @ B for flat float32 arrays, `depth` and `columns` the lengths of their rows.

        The first of A's rows begins at `at_a`, the vectors of B's and C's at `at_b` and `at_c`; the
        depth is 1 or more.
        """
        if not (is_flat(a) and is_flat(b) and is_flat(c)):
            return None

        def codegen(context, builder, sig, args):
            _, at_a, _, at_b, _, at_c, depth, columns = args
            a, b, c = (
                builder.gep(context.make_array(sig.args[n])(context, builder, args[n]).data, [at])
                for n, at in ((0, at_a), (2, at_b), (4, at_c))
            )
            function = _block_function(builder.module, rows, vectors)
            builder.call(function, [a, b, c, depth, columns])
            return context.get_dummy_value()

        size = types.intp
        return types.void(a, size, b, size, c, size, size, size), codegen

    return block


def _block_function(module, rows: int, vectors: int):
    """Return the LLVM function of a block.

    It stands alone: LLVM runs out of registers where it is one loop of many in a function.
    """
    name = f"feat_block_{rows}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    pointer = FLOAT.as_pointer()
    arguments = [pointer, pointer, pointer, _INDEX, _INDEX]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, b, c, depth, columns = function.args
    before, loop, done = (function.append_basic_block(name) for name in ("before", "loop", "done"))
    builder = ir.IRBuilder(before)
    row_starts = [builder.mul(depth, _INDEX(row)) for row in range(rows)]
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INDEX)
    sums = [[builder.phi(_VECTOR) for _ in range(vectors)] for _ in range(rows)]
    column = builder.gep(a, [k])
    line = builder.gep(b, [builder.mul(k, columns)])
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
        line = builder.gep(c, [builder.mul(columns, _INDEX(row))])
        for place, result in zip(_vectors_at(builder, line, vectors), of_row, strict=True):
            _aligned(builder.store(result, place))
    builder.ret_void()
    return function


def _vectors_at(builder, start, count):
    """Emit the addresses of vectors that follow one another."""
    first = builder.bitcast(start, _VECTOR.as_pointer())
    return [builder.gep(first, [_INDEX(n)]) for n in range(count)]


def _aligned(access):
    access.align = 4
    return access


def _define_columns(vectors: int):
    """Return the product of any number of rows with `vectors` vectors of columns."""
    many, few, one = (_define_block(rows, vectors) for rows in (_ROWS, _FEW, 1))

    @njit
    def multiply_columns(a, at_a, b, at_b, c, at_c, rows, depth, columns):
        done = 0
        while done < rows:
            left = rows - done
            if left < _ROWS and rows >= _FEW:
                done = min(done, rows - _FEW)  # some rows may be computed twice
            i, k = at_a + done * depth, at_c + done * columns
            if left >= _ROWS:
                many(a, i, b, at_b, c, k, depth, columns)
                done += _ROWS
            elif rows >= _FEW:
                few(a, i, b, at_b, c, k, depth, columns)
                done += _FEW
            else:
                one(a, i, b, at_b, c, k, depth, columns)
                done += 1

    return multiply_columns


_multiply_vector, _multiply_pair = _define_columns(1), _define_columns(2)


@njit
def multiply(a, at_a, b, at_b, c, at_c, rows, depth, columns):
    """Fill C (rows, columns) with A (rows, depth) @ B (depth, columns), all flat float32.

    Their first elements lie at `at_a`, `at_b` and `at_c`. The depth is 1 or more, the columns are
    `LANES` or more.
    """
    done = 0
    while columns - done >= _PAIR:
        _multiply_pair(a, at_a, b, at_b + done, c, at_c + done, rows, depth, columns)
        done += _PAIR
    while done < columns:
        done = min(done, columns - LANES)  # some columns may be computed twice
        _multiply_vector(a, at_a, b, at_b + done, c, at_c + done, rows, depth, columns)
        done += LANES


@compiled(nogil=True)
def multiply_batch(a, b, c, rows, depth, columns, stamp=STAMP):
    """Fill `c` (P, rows, columns) with `a` (P, rows, depth) @ `b` (P, depth, columns), all flat."""
    for p in range(len(a) // (rows * depth)):
        at_a, at_b, at_c = p * rows * depth, p * depth * columns, p * rows * columns
        multiply(a, at_a, b, at_b, c, at_c, rows, depth, columns)
