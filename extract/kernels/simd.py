# mypy: ignore-errors
# A code generator: llvmlite and numba's intrinsics have no types to check.
"""Float32 vectors inside numba kernels: one Python name, one vector instruction.

LLVM's own vectoriser stops at what TV-L1's inner loop needs: carrying a vector to the next column,
updating arrays in place, 512-bit registers on processors it tunes for 256. So the kernels name the
vectors themselves: `load(array, i)` reads LANES consecutive numbers of a flat float32 array,
`+ - * /` and the functions below work lane by lane, `store` writes back. LLVM turns each into the
processor's instructions (two where its registers are narrower). Nothing checks bounds.
"""

import operator
import platform

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
LANES = 16 if "+avx512f" in FEATURES else 8 if "+avx" in FEATURES else 4
FUSED = "+fma" in FEATURES or platform.machine() not in ("x86_64", "AMD64", "i686", "x86")
REGISTERS = 32 if "+avx512f" in FEATURES or platform.machine() in ("aarch64", "arm64") else 16
CACHE_LINE = 64  # bytes

FLOAT = ir.FloatType()
DOUBLE = ir.DoubleType()
_INT32 = ir.IntType(32)


class VectorType(types.Type):
    """The numba type of `lanes` float32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


class SumType(types.Type):
    """The numba type of `lanes` float64, in as many registers as they need."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float64x{lanes}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(FLOAT, fe_type.lanes))


@register_model(SumType)
class _SumModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(DOUBLE, fe_type.lanes))


WIDE = VectorType(LANES)
SUM = SumType(LANES)
QUAD = VectorType(4)
QUADS = VectorType(16)  # four quads; several registers where there are none of 512 bits
_KINDS = list({WIDE, QUAD, QUADS})


def is_flat(array) -> bool:
    """Whether `array` is of the type of a contiguous float32 array of one axis."""
    flat = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
    return flat and array.dtype == types.float32


def _address(context, builder, array_type, array, index, kind):
    data = context.make_array(array_type)(context, builder, array).data
    pointer = context.get_value_type(kind).as_pointer()
    return builder.bitcast(builder.gep(data, [index]), pointer)


def read_vector(context, builder, array_type, array, index, kind):
    """Emit the load of a `kind` from `array[index:]`."""
    value = builder.load(_address(context, builder, array_type, array, index, kind))
    value.align = 4
    return value


def write_vector(context, builder, array_type, array, index, kind, vector):
    """Emit the store of `vector`, a `kind`, to `array[index:]`."""
    builder.store(vector, _address(context, builder, array_type, array, index, kind)).align = 4


def _define_load(kind: VectorType):
    @intrinsic
    def load(typingctx, array, index):
        if not is_flat(array):
            return None

        def codegen(context, builder, sig, args):
            return read_vector(context, builder, sig.args[0], *args, kind)

        return kind(array, types.intp), codegen

    return load


load = _define_load(WIDE)
load4 = _define_load(QUAD)
load16 = _define_load(QUADS)


@intrinsic
def load1(typingctx, array, index):
    """One number. Unlike `array[index]` it does not ask whether the index counts from the end."""
    if not is_flat(array):
        return None

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return types.float32(array, types.intp), codegen


@intrinsic
def load_place(typingctx, array, index):
    """One of the integers that `places` made."""
    if not is_flat(array):
        return None

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), _INT32.as_pointer())
        return builder.sext(builder.load(pointer), context.get_value_type(types.intp))

    return types.intp(array, types.intp), codegen


@intrinsic
def places(typingctx, y, x, row):
    """The integers y * row + 4 * x of whole numbers in every lane, in a vector to be stored."""

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(_INT32, LANES)
        y, x = (builder.fptosi(value, kind) for value in args[:2])
        first = builder.insert_element(
            ir.Constant(kind, ir.Undefined), builder.trunc(args[2], _INT32), ir.Constant(_INT32, 0)
        )
        row = pick(builder, first, first, [0] * LANES)
        four = ir.Constant(kind, [4] * LANES)
        return builder.bitcast(builder.add(builder.mul(y, row), builder.mul(x, four)), args[0].type)

    return y(y, x, types.intp), codegen


@intrinsic
def load_every4(typingctx, array, index):
    """The numbers at index, index + 4, index + 8, ...: one channel of four interleaved ones."""
    if not is_flat(array):
        return None

    def codegen(context, builder, sig, args):
        array, place = args
        width = context.get_constant(types.intp, LANES)
        quarters = []
        for _ in range(4):
            quarters.append(read_vector(context, builder, sig.args[0], array, place, WIDE))
            place = builder.add(place, width)
        halves = [pick(builder, *quarters[i : i + 2], range(0, 2 * LANES, 4)) for i in (0, 2)]
        return pick(builder, *halves, range(LANES))

    return WIDE(array, types.intp), codegen


@intrinsic
def store_every4(typingctx, array, index, a, b, c, d):
    """Write four vectors interleaved: a's first lane, b's, c's, d's, then their second lanes."""
    if not is_flat(array):
        return None

    def codegen(context, builder, sig, args):
        array, place = args[:2]
        both = [n for i in range(LANES) for n in (i, LANES + i)]
        pairs = [pick(builder, *args[i : i + 2], both) for i in (2, 4)]
        step = context.get_constant(types.intp, LANES)
        for i in range(4):
            start = i * LANES // 2
            lanes = [
                n + k
                for j in range(start, start + LANES // 2, 2)
                for n in (j, 2 * LANES + j)
                for k in (0, 1)
            ]
            vector = pick(builder, *pairs, lanes)
            write_vector(context, builder, sig.args[0], array, place, WIDE, vector)
            place = builder.add(place, step)
        return context.get_dummy_value()

    return types.void(array, types.intp, a, b, c, d), codegen


@intrinsic
def store(typingctx, array, index, vector):
    """Write `vector` to `array[index:]`."""
    if not (is_flat(array) and isinstance(vector, VectorType)):
        return None

    def codegen(context, builder, sig, args):
        array, index, vector = args
        write_vector(context, builder, sig.args[0], array, index, sig.args[2], vector)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


def pick(builder, a, b, lanes):
    """Emit the vector of the given lanes of `a` followed by `b`."""
    places = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, len(places)), places))


def splat_value(builder, value, lanes: int):
    """Emit a vector with `value` in every lane."""
    empty = ir.Constant(ir.VectorType(FLOAT, lanes), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_INT32, 0))
    return pick(builder, first, first, [0] * lanes)


def _define_splat(kind: VectorType):
    @intrinsic
    def splat(typingctx, value):
        def codegen(context, builder, sig, args):
            return splat_value(builder, args[0], kind.lanes)

        return kind(types.float32), codegen

    return splat


splat = _define_splat(WIDE)
splat16 = _define_splat(QUADS)


def _define_operator(function, method: str) -> None:
    class Template(ConcreteTemplate):
        cases = [signature(kind, kind, kind) for kind in _KINDS]  # noqa: RUF012

    def lower(context, builder, sig, args):
        return getattr(builder, method)(*args)

    infer_global(function)(Template)
    for kind in _KINDS:
        lower_builtin(function, kind, kind)(lower)


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


def call_llvm(builder, name: str, result, arguments):
    """Emit a call of the LLVM intrinsic of this full name."""
    function = builder.module.globals.get(name)
    if function is None:
        function_type = ir.FunctionType(result, [value.type for value in arguments])
        function = ir.Function(builder.module, function_type, name)
    return builder.call(function, arguments)


def _define_llvm(name: str):
    def emit(kind):
        def codegen(context, builder, sig, args):
            return call_llvm(builder, f"llvm.{name}.v{kind.lanes}f32", args[0].type, args)

        return kind(kind), codegen

    return intrinsic(lambda typingctx, a: emit(a))


sqrt = _define_llvm("sqrt")  # correctly rounded
floor = _define_llvm("floor")


def smaller(builder, a, b):
    """Emit the lane-wise minimum: compare and select is one instruction where there is one."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def larger(builder, a, b):
    """Emit the lane-wise maximum."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic
def minimum(typingctx, a, b):
    """The smaller of both in every lane; no lane may be NaN."""
    return a(a, b), lambda context, builder, sig, args: smaller(builder, *args)


@intrinsic
def maximum(typingctx, a, b):
    """The larger of both in every lane; no lane may be NaN."""
    return a(a, b), lambda context, builder, sig, args: larger(builder, *args)


def multiply_add(builder, a, b, c):
    """Emit a * b + c, rounded once; twice on x86 without that instruction.

    There LLVM would call a function of the C library for every lane.
    """
    if FUSED:
        return call_llvm(builder, f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])
    return builder.fadd(builder.fmul(a, b), c)


@intrinsic
def fma(typingctx, a, b, c):
    """A * b + c, rounded once where the processor can."""
    return a(a, b, c), lambda context, builder, sig, args: multiply_add(builder, *args)


@intrinsic
def reciprocal(typingctx, a):
    """1 / a for normal numbers, rounded correctly.

    With AVX-512 two steps of Newton's from an estimate of 14 bits: the divider, busy with the
    square roots, is what would limit the sweep. The second step, fused, rounds correctly what is
    off by at most one unit in the last place (Markstein 1990), unless all bits of the mantissa of
    `a` are ones: then the last bit of the result is 1, and may be missing.
    """

    def codegen(context, builder, sig, args):
        kind = args[0].type
        one = ir.Constant(kind, [1.0] * LANES)
        if LANES < 16:
            return builder.fdiv(one, args[0])
        mask = ir.Constant(ir.IntType(16), -1)
        arguments = [args[0], ir.Constant(kind, None), mask]
        estimate = call_llvm(builder, "llvm.x86.avx512.rcp14.ps.512", kind, arguments)
        for _ in range(2):
            error = multiply_add(builder, builder.fneg(estimate), args[0], one)
            estimate = multiply_add(builder, estimate, error, estimate)
        integers = ir.VectorType(_INT32, LANES)
        mantissa = ir.Constant(integers, [0x7FFFFF] * LANES)
        bits = builder.and_(builder.bitcast(args[0], integers), mantissa)
        missing = builder.zext(builder.icmp_unsigned("==", bits, mantissa), integers)
        return builder.bitcast(builder.or_(builder.bitcast(estimate, integers), missing), kind)

    return a(a), codegen


@intrinsic
def clamp(typingctx, a, limit):
    """`a` cut at +-`limit` in every lane; no limit may be negative, no lane NaN."""

    def codegen(context, builder, sig, args):
        value, limit = args
        if LANES < 16 or "+avx512dq" not in FEATURES:
            return smaller(builder, larger(builder, value, builder.fneg(limit)), limit)
        # The smaller magnitude with the first one's sign, in one instruction.
        rest = [value, ir.Constant(ir.IntType(16), -1), ir.Constant(_INT32, 4)]
        arguments = [value, limit, ir.Constant(_INT32, 2), *rest]
        return call_llvm(builder, "llvm.x86.avx512.mask.range.ps.512", value.type, arguments)

    return a(a, limit), codegen


@intrinsic
def subtract_product(typingctx, a, b, c):
    """C - a * b, rounded once where the processor can."""

    def codegen(context, builder, sig, args):
        return multiply_add(builder, builder.fneg(args[0]), *args[1:])

    return a(a, b, c), codegen


@intrinsic
def shift_in(typingctx, previous, current):
    """`current` moved one lane up, with `previous`'s last lane first: the left neighbours."""

    def codegen(context, builder, sig, args):
        return pick(builder, *args, range(LANES - 1, 2 * LANES - 1))

    return WIDE(previous, current), codegen


@intrinsic
def repeat_each(typingctx, a):
    """Each of four lanes four times: aaaabbbbccccdddd."""

    def codegen(context, builder, sig, args):
        return pick(builder, args[0], args[0], [i // 4 for i in range(16)])

    return QUADS(QUAD), codegen


@intrinsic
def sum_of_quads(typingctx, a):
    """The sum of four quads, lane by lane."""

    def codegen(context, builder, sig, args):
        low = pick(builder, args[0], args[0], range(8))
        half = builder.fadd(low, pick(builder, args[0], args[0], range(8, 16)))
        low = pick(builder, half, half, range(4))
        return builder.fadd(low, pick(builder, half, half, range(4, 8)))

    return QUAD(QUADS), codegen


@intrinsic
def no_sum(typingctx):
    """Zero in every lane of a sum."""
    return SUM(), lambda context, builder, sig, args: ir.Constant(ir.VectorType(DOUBLE, LANES), 0)


@intrinsic
def add_to(typingctx, sums, a):
    """`sums` plus `a` lane by lane, in float64."""

    def codegen(context, builder, sig, args):
        return builder.fadd(args[0], builder.fpext(args[1], args[0].type))

    return SUM(sums, a), codegen


@intrinsic
def total(typingctx, sums):
    """The sum of all lanes, by halves."""

    def codegen(context, builder, sig, args):
        value, lanes = args[0], LANES
        while lanes > 1:
            lanes //= 2
            low = pick(builder, value, value, range(lanes))
            high = pick(builder, value, value, range(lanes, 2 * lanes))
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(_INT32, 0))

    return types.float64(sums), codegen


def aligned_zeros(size: int) -> npt.NDArray[np.float32]:
    """A flat float32 array of zeros that starts on a cache line."""
    raw = np.zeros(size * 4 + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size * 4].view(np.float32)
