"""What stands for NumPy's and Python's own names in a pickle: shapes, types and bytes, checked."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from finecausal_jax.runtime.unpickling import Named, Names, Refused, Unfinished, checked_key

# Truth values, whole numbers, floating-point numbers, text and bytes; neither objects, which would
# be pointers, nor records.
_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]([0-9]{1,4})")
_LARGEST_RANK = 32
_LONGEST_EMPTY = 10**6  # an axis of an array that holds nothing: somebody may walk along it


class ArrayType(Unfinished):
    """A dtype of the allowed few."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        match = _TYPE.fullmatch(code.lstrip("<>=|")) if isinstance(code, str) else None
        if match is None:
            raise Refused(f"has an array of type {str(code)[:40]!r}, expected numbers or text")
        self._code = match.group()
        self._order = code[0] if code[0] in "<>" else "="

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 8 or state[2:5] != (None, None, None):
            raise Refused("has an array of a type with parts, expected numbers or text")
        if state[1] not in ("<", ">", "|", "="):
            raise Refused("has an array type of an unknown byte order")
        size, is_text = state[5], self._code[0] in "US"
        if size not in ((-1, self.type.itemsize) if not is_text else (self.type.itemsize,)):
            raise Refused(f"has an array type {self._code} of {size!r} bytes")
        self._order = state[1]

    def finish(self) -> str:
        return self.type.str

    @property
    def type(self) -> np.dtype:
        """As NumPy has it."""
        return np.dtype(f"{self._order}{self._code}")


class PickledArray(Unfinished):
    """An array, whose shape, type and bytes come as its state."""

    def __init__(self) -> None:
        self._array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refused("has an array without a shape, a type and bytes")
        _, shape, kind, by_columns, data = state
        self._array = array(shape, kind, data, "F" if by_columns else "C")

    def finish(self) -> np.ndarray:
        if self._array is None:
            raise Refused("has an array without content")
        return self._array


def array(shape: Any, kind: Any, data: Any, order: Any) -> np.ndarray:
    """An array of bytes that fill it exactly.

    Args:
      shape: lengths of its axes.
      kind: an `ArrayType`.
      data: its bytes.
      order: "C" or "F".

    Raises:
      Refused: one of them is something else, or the bytes are not so many.
    """
    if not isinstance(kind, ArrayType):
        raise Refused("has an array without a type")
    lengths = shape if type(shape) is tuple else (shape,)
    if len(lengths) > _LARGEST_RANK or any(type(n) is not int or n < 0 for n in lengths):
        raise Refused(f"has an array of shape {str(shape)[:80]}")
    content = _bytes(data)
    if 0 in lengths and max(lengths) > _LONGEST_EMPTY:
        raise Refused(f"has an empty array of shape {lengths}")
    if math.prod(lengths) * kind.type.itemsize != len(content) or order not in ("C", "F"):
        raise Refused(
            f"has an array of shape {lengths} and type {kind.type} with {len(content)} bytes"
        )
    return np.frombuffer(content, kind.type).reshape(lengths, order=order).copy()


def _scalar(kind: Any, data: Any) -> Any:
    return array((1,), kind, data, "C")[0]


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    if not isinstance(kind, Named) or kind.name != "numpy.ndarray":
        raise Refused("has an array of another class than numpy.ndarray")
    return PickledArray()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    return array(shape, kind, data, order)


def _bytes(data: Any) -> bytes:
    """Bytes, which Python 2 has as text with a character a byte."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, bytes):
        raise Refused(f"has {type(data).__name__} where bytes belong")
    return data


def _encode(text: Any, encoding: Any = "") -> bytes:
    """How Python 3 writes bytes for Python 2, with `_codecs.encode`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("has bytes that are no text in latin-1")
    return text.encode("latin-1")


def _as_bytes(content: Any = b"", *encoding: Any) -> bytes:
    return content if type(content) is bytes else _encode(content, *encoding)


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise Refused("has an OrderedDict of something else than pairs")
    return {checked_key(key): value for key, value in pairs}


def _with_default(factory: Any = None) -> dict[Any, Any]:
    """A defaultdict: what it would give for other keys is not content."""
    return {}


def _set(values: Any = ()) -> set[Any]:
    if not isinstance(values, (list, tuple)):
        raise Refused("has a set of something else than values")
    return set(map(checked_key, values))


def _frozenset(values: Any = ()) -> frozenset[Any]:
    return frozenset(_set(values))


def _table() -> Names:
    calls = {
        "numpy.dtype": ArrayType,
        "collections.OrderedDict": _ordered,
        "collections.defaultdict": _with_default,
        "_codecs.encode": _encode,
        "numpy.ndarray": None,
    }
    # NumPy 1's and NumPy 2's names for the same.
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray._reconstruct"] = _reconstruct
        calls[f"{core}.multiarray.scalar"] = _scalar
        calls[f"{core}.numeric._frombuffer"] = _from_buffer
    # Of Python 3 and of Python 2. A defaultdict names what makes its defaults.
    for module in ("builtins", "__builtin__"):
        calls |= {f"{module}.{name}": None for name in ("int", "float", "list", "dict", "str")}
        calls |= {f"{module}.bytes": _as_bytes, f"{module}.bytearray": _as_bytes}
        calls |= {f"{module}.set": _set, f"{module}.frozenset": _frozenset}
    return {
        (name.rpartition(".")[0], name.rpartition(".")[2]): Named(name, call)
        for name, call in calls.items()
    }


# (module, name) -> what stands for it.
PLAIN: Names = _table()
