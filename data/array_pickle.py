"""Pickles of numpy arrays, read without numpy's or Python's unpickler.

Those were not written for hostile or damaged bytes: nine of them make the unpickler take 16 GB, and
an array of which one byte was changed can crash numpy. So the few operations that pickles of arrays
are made of are worked through here. They make plain values, and arrays of numbers and text from
bytes that are there. Nothing else can come out, and nothing runs.
"""

import codecs
import io
import math
import pickletools
import re
from typing import Any, Literal

import numpy as np

# Each takes some bytes of memory: a file of 100 MB could ask for 100 million lists.
MAX_OPERATIONS = 5_000_000
_MAX_AXES = 32
_TYPE = re.compile(r"[biufc](?:1|2|4|8|16)|[SU][0-9]{1,4}|O8?")
_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_FUNCTIONS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocol 2 and older spell the bytes of an array
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
}
for _core in ("numpy.core", "numpy._core"):  # the names of numpy 1 and 2
    _FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = "reconstruct"
    _FUNCTIONS[f"{_core}.multiarray", "scalar"] = "scalar"
    _FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = "frombuffer"
_MARK = object()


class _Function:
    """Something that a pickle may call; we know what it would return."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Unbuilt:
    """An array or, if it has a name, a type that was begun; `value` once its state is known."""

    def __init__(self, dtype: str = "") -> None:
        self.dtype = dtype
        self.value: Any = None


def load_array_pickle(content: bytes) -> Any:
    """Return the arrays and plain values in `content`; nothing else can come out, or run.

    Raises:
        ValueError: the pickle is damaged, or names anything but numpy arrays; the message says
            which.
    """
    try:
        return _Reader(content).load()
    except Exception as error:  # damaged bytes can raise anything at all
        raise ValueError(str(error) or type(error).__name__) from error


class _Reader:
    """Works a pickle through: a stack of values, and a memo of those that occur again."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._bytes_left = len(content)  # arrays hold no more than the file

    def load(self) -> Any:
        """Return the value of the whole pickle."""
        for _ in range(MAX_OPERATIONS):
            name, argument = self._next_operation()
            if name == "STOP":
                return self._pop()
            self._work(name, argument)
        raise ValueError(f"it has more than {MAX_OPERATIONS} operations")

    def _next_operation(self) -> tuple[str, Any]:
        """Read an operation and its argument, whose bytes must be there."""
        code = self._file.read(1)
        operation = _OPERATIONS.get(code.decode("latin1"))
        if operation is None:
            raise ValueError(f"no operation {code!r}" if code else "it is cut off")
        if operation.name == "STRING":  # of Python 2; pickletools takes ASCII only
            quoted = self._file.readline().strip()
            return operation.name, codecs.escape_decode(quoted[1:-1])[0].decode("latin1")
        return operation.name, operation.arg.reader(self._file) if operation.arg else None

    def _work(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                stack.append(self._pop_to_mark())
            case "DICT":
                items = self._pop_to_mark()
                stack.append({})
                self._set_items(items)
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple([self._pop() for _ in range(int(name[-1]))][::-1]))
            case "APPEND":
                self._extend([self._pop()])
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                self._set_items([self._pop(), self._pop()][::-1])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._recall(self._memo[argument]))
            case "GLOBAL":
                self._name_function(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                function, module = self._pop(), self._pop()
                self._name_function(module, function)
            case "REDUCE":
                arguments, called = self._pop(), self._pop()
                stack.append(self._call(called, arguments))
            case "BUILD":
                state = self._pop()
                stack.append(self._build(stack.pop(), state))
            case _:
                raise ValueError(f"it uses {name}, which pickles of arrays do not")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK or isinstance(value, _Unbuilt):
            raise ValueError("a mark or an array without content where a value should be")
        return value

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while self._stack[-1] is not _MARK:
            values.append(self._pop())
        self._stack.pop()
        return values[::-1]

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("values are added to what is no list")
        target += values

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise ValueError("items are set of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | bytes | int | float):  # nested ones are hashed recursively
                raise ValueError(f"a key of type {type(key).__name__}")
            target[key] = value

    def _recall(self, value: Any) -> Any:
        """Return a value of the memo. Containers that occur twice could hold themselves."""
        if isinstance(value, list | dict) or (
            type(value) is tuple and any(isinstance(item, tuple | list | dict) for item in value)
        ):
            raise ValueError("a list, a dict or a nested tuple is in it twice")
        return value.value if isinstance(value, _Unbuilt) and value.value is not None else value

    def _name_function(self, module: str, name: str) -> None:
        if (module, name) not in _FUNCTIONS:
            raise ValueError(f"it asks for {module}.{name}")
        self._stack.append(_Function(_FUNCTIONS[module, name]))

    def _call(self, called: Any, arguments: Any) -> Any:
        match getattr(called, "name", ""), arguments:
            case "reconstruct", (_Function(name="ndarray"), _, _):
                return _Unbuilt()
            case "dtype", (str(name), *_):
                return _Unbuilt(name)
            case "scalar", (dtype, data):
                return self._array((), dtype, data, "C")[()]
            case "frombuffer", (data, dtype, shape, "C" | "F" as order):
                return self._array(shape, dtype, data, order)
            case "encode", (str(text), "latin1"):
                return text.encode("latin1")
            case "bytes", ():
                return b""
        raise ValueError("it calls something in a way that numpy does not")

    def _build(self, target: Any, state: Any) -> Any:
        if not isinstance(target, _Unbuilt) or target.value is not None:
            raise ValueError("it gives a state to what has none")
        if target.dtype:
            target.value = _dtype(target.dtype, state)
        else:
            _, shape, dtype, is_fortran, data = state
            target.value = self._array(shape, dtype, data, "F" if is_fortran else "C")
        return target.value

    def _array(self, shape: Any, dtype: Any, data: Any, order: Literal["C", "F"]) -> np.ndarray:
        """Return an array of these bytes, or of these objects."""
        if not isinstance(dtype, np.dtype) or type(shape) is not tuple or len(shape) > _MAX_AXES:
            raise ValueError("an array without a type or a shape")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"an array of shape {shape}")
        size = math.prod(shape)
        if dtype.hasobject:
            if type(data) is not list or len(data) != size:
                raise ValueError(f"an array of shape {shape} without its objects")
            flat = np.empty(size, dtype=object)
            for place, item in enumerate(data):  # at once, lists in it would become an axis
                flat[place] = item
            return flat.reshape(shape, order=order)
        if isinstance(data, str):  # as Python 2 wrote bytes
            data = data.encode("latin1")
        if not isinstance(data, bytes | bytearray) or len(data) != size * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and type {dtype} without its bytes")
        self._bytes_left -= max(len(data), size)  # empty texts have no bytes and take some
        if self._bytes_left < 0:
            raise ValueError("its arrays are larger than the file")
        flat = np.frombuffer(data, dtype) if data else np.zeros(size, dtype)
        return flat.reshape(shape, order=order).astype(dtype.newbyteorder("="))


def _dtype(name: str, state: Any) -> np.dtype:
    """Return the type that a name and its state tell: numbers, text or objects, no records."""
    if not _TYPE.fullmatch(name) or type(state) is not tuple or state[2:5] != (None, None, None):
        raise ValueError(f"an array of type {name!r:.40}, expected numbers or text")
    if state[1] not in ("<", ">", "|", "="):
        raise ValueError(f"a byte order {state[1]!r:.40}")
    return np.dtype("O" if name.startswith("O") else f"{state[1]}{name}")
