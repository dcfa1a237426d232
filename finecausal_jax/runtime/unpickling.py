"""Pickles of plain content, read without running anything: an interpreter that knows no callables.

A pickle is a program, and Python's own readers run it: they import and call what it names. Here
each instruction is carried out by a few lines that build containers, numbers and text. A name in
the file is looked up in a table of stand-ins of this project, and all else is refused. What a file
can ask for is bounded (`Limits`), and nothing is allocated that the file's own bytes do not fill.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import pathlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

Names = Mapping[tuple[str, str], "Named"]


class Refused(ValueError):
    """What a pickle holds is not plain content, or is damaged; the text is the end of a sentence
    about the file: "asks for os.system"."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a pickle may come to; far above what honest ones take.

    Attributes:
      bytes: of the file.
      work: instructions, values and characters that are copied by them, and containers (each some
        hundred bytes of memory) as `_CONTAINER` instructions.
      depth: of containers in containers.
      values: in all, one that is reached on several ways counted each time.
    """

    bytes: int = 32 * 2**20
    work: int = 8_000_000
    depth: int = 40
    values: int = 8_000_000


@dataclasses.dataclass(frozen=True)
class Named:
    """What stands for a function or class that a pickle names.

    Attributes:
      name: in full.
      call: what a call of it gives; None: it may be named, not called.
    """

    name: str
    call: Callable[..., Any] | None = None


class Unfinished:
    """A value that a pickle describes in two steps: named first, filled by `build`, then `finish`.

    Once the whole pickle is read, `finish` gives the value in its place.
    """

    def build(self, state: Any) -> None:
        """Takes the state, of whatever type a pickle gives it."""
        raise Refused(f"gives a state to {type(self).__name__}, which has none")

    def finish(self) -> Any:
        """The value itself."""
        raise NotImplementedError


def load(
    data: bytes | memoryview,
    names: Names,
    *,
    persistent: Callable[[Any], Any] | None = None,
    limits: Limits = Limits(),
    start: int = 0,
) -> tuple[Any, int]:
    """Reads one pickle, of any protocol from 0 to 5, written by Python 2 or 3.

    Args:
      data: what holds it. A Python 2 `str` comes back as text with one character a byte.
      names: (module, name) -> what stands for it.
      persistent: gives what a persistent id stands for; None refuses them.
      limits: of the pickle.
      start: where it begins in `data`.

    Returns:
      The content and where the pickle ends. Containers are built anew, so that none is in itself.

    Raises:
      Refused: the pickle asks for anything else, is damaged, or exceeds the limits.
    """
    finish, end = begin(data, names, persistent=persistent, limits=limits, start=start)
    return finish(), end


def begin(
    data: bytes | memoryview,
    names: Names,
    *,
    persistent: Callable[[Any], Any] | None = None,
    limits: Limits = Limits(),
    start: int = 0,
) -> tuple[Callable[[], Any], int]:
    """As `load`, for content that refers to what comes after it in the file.

    Returns:
      What gives the content, by the `finish` of all that is unfinished; and where the pickle ends.
    """
    machine = _Machine(memoryview(data)[: start + limits.bytes], start, names, persistent, limits)
    try:
        value = machine.run()
    except Refused:
        raise
    except (IndexError, struct.error):
        raise Refused("is no readable pickle (it ends amid its content)") from None
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise Refused(f"is no readable pickle ({type(error).__name__}: {error})") from None
    return lambda: _Finishing(limits).finished(value), machine.at


def read_bytes(path: str | os.PathLike[str], limits: Limits = Limits()) -> bytes:
    """A file's content.

    Raises:
      OSError: it cannot be read.
      Refused: it is larger than the limits have it.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size > limits.bytes:
        raise Refused(f"has {size} bytes, expected at most {limits.bytes}")
    return path.read_bytes()


class _Mark:
    """Where on the stack a group of values begins."""


class _Machine:
    """The stack and the memo of the pickle that is read, and a method an instruction."""

    def __init__(
        self,
        data: memoryview,
        start: int,
        names: Names,
        persistent: Callable[[Any], Any] | None,
        limits: Limits,
    ):
        self.at = start
        self._data = data
        self._names, self._persistent = names, persistent
        self._left = limits.work
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}  # no list: an index may be any number

    def run(self) -> Any:
        methods = {code[0]: getattr(self, name) for code, name in _METHODS.items()}
        data, stack = self._data, self._stack
        while True:
            code = data[self.at]
            self.at += 1
            self._left -= 1
            if self._left < 0:
                raise Refused("asks for more work than any honest file")
            if code == _STOP:
                value = stack.pop()
                if stack or value is _Mark:
                    raise Refused("is no readable pickle (values are left over)")
                return value
            method = methods.get(code)
            if method is None:
                raise Refused(f"is no readable pickle of plain content (instruction {code:#04x})")
            method()

    # What follows an instruction in the file.

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self._data):
            raise IndexError
        taken = self._data[self.at : end]
        self.at = end
        return bytes(taken)

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self.at)
        self.at += struct.calcsize(form)
        return value

    def _line(self) -> bytes:
        # Lines are short; the text of one that is not is what is looked through.
        end, step = self.at, 256
        while True:
            piece = bytes(self._data[end : end + step])
            found = piece.find(b"\n")
            if found >= 0:
                line = bytes(self._data[self.at : end + found])
                self.at = end + found + 1
                self._spend(len(line))
                return line
            if len(piece) < step:
                raise IndexError
            end += step
            step *= 2

    def _spend(self, work: int) -> None:
        self._left -= work

    # The stack.

    def _group(self) -> list[Any]:
        """Takes the values above the last mark, and the mark."""
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _Mark:
            at -= 1
            if at < 0:
                raise IndexError
        group = stack[at + 1 :]
        del stack[at:]
        return group

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _Mark:
            raise Refused("is no readable pickle (a mark where a value belongs)")
        return value

    def _top(self, kind: type) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise Refused(f"is no readable pickle (adds to {_kind(value)} as to a {kind.__name__})")
        return value

    def mark(self) -> None:
        self._stack.append(_Mark)

    def pop(self) -> None:
        self._stack.pop()

    def pop_mark(self) -> None:
        self._group()

    def dup(self) -> None:
        self._stack.append(self._stack[-1])

    def protocol(self) -> None:
        version = self._number("<B")
        if version > 5:
            raise Refused(f"is a pickle of protocol {version}, expected 0 to 5")

    def frame(self) -> None:
        self._number("<Q")  # how much to read ahead, which the file's bytes tell anyway

    # Remembered values.

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._remembered()

    def put(self) -> None:
        self._memo[_decimal(self._line())] = self._remembered()

    def binput(self) -> None:
        self._memo[self._number("<B")] = self._remembered()

    def long_binput(self) -> None:
        self._memo[self._number("<I")] = self._remembered()

    def _remembered(self) -> Any:
        value = self._stack[-1]
        if value is _Mark:
            raise Refused("is no readable pickle (a mark where a value belongs)")
        return value

    def get(self) -> None:
        self._stack.append(self._memo[_decimal(self._line())])

    def binget(self) -> None:
        self._stack.append(self._memo[self._number("<B")])

    def long_binget(self) -> None:
        self._stack.append(self._memo[self._number("<I")])

    # Numbers, text and bytes.

    def none(self) -> None:
        self._stack.append(None)

    def true(self) -> None:
        self._stack.append(True)

    def false(self) -> None:
        self._stack.append(False)

    def int_line(self) -> None:
        line = self._line()
        self._stack.append({b"00": False, b"01": True}.get(line, None))
        if self._stack[-1] is None:
            self._stack[-1] = _decimal(line)

    def long_line(self) -> None:
        self._stack.append(_decimal(self._line().removesuffix(b"L")))

    def binint(self) -> None:
        self._stack.append(self._number("<i"))

    def binint1(self) -> None:
        self._stack.append(self._number("<B"))

    def binint2(self) -> None:
        self._stack.append(self._number("<H"))

    def long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def float_line(self) -> None:
        self._stack.append(float(self._line()))

    def binfloat(self) -> None:
        self._stack.append(self._number(">d"))

    def string_line(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
            raise Refused("is no readable pickle (text without quotation marks)")
        self._stack.append(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))

    def unicode_line(self) -> None:
        self._stack.append(self._line().decode("raw-unicode-escape"))

    def short_binstring(self) -> None:
        self._stack.append(self._take(self._number("<B")).decode("latin-1"))

    def binstring(self) -> None:
        self._stack.append(self._take(self._number("<i")).decode("latin-1"))

    def short_binunicode(self) -> None:
        self._stack.append(_text(self._take(self._number("<B"))))

    def binunicode(self) -> None:
        self._stack.append(_text(self._take(self._number("<I"))))

    def binunicode8(self) -> None:
        self._stack.append(_text(self._take(self._number("<Q"))))

    def short_binbytes(self) -> None:
        self._stack.append(self._take(self._number("<B")))

    def binbytes(self) -> None:
        self._stack.append(self._take(self._number("<I")))

    def binbytes8(self) -> None:
        self._stack.append(self._take(self._number("<Q")))

    # Containers.

    def _push(self, container: Any) -> None:
        self._spend(_CONTAINER)
        self._stack.append(container)

    def empty_list(self) -> None:
        self._push([])

    def empty_tuple(self) -> None:
        self._stack.append(())  # Python has but one

    def empty_dict(self) -> None:
        self._push({})

    def empty_set(self) -> None:
        self._push(set())

    def list_of_group(self) -> None:
        self._push(self._group())

    def tuple_of_group(self) -> None:
        self._push(tuple(self._group()))

    def dict_of_group(self) -> None:
        group = self._group()
        self._push({})
        self._set_items(group)

    def frozenset_of_group(self) -> None:
        self._push(frozenset(map(checked_key, self._group())))

    def tuple1(self) -> None:
        self._push((self._pop(),))

    def tuple2(self) -> None:
        last = self._pop()
        self._push((self._pop(), last))

    def tuple3(self) -> None:
        last, middle = self._pop(), self._pop()
        self._push((self._pop(), middle, last))

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self) -> None:
        group = self._group()
        self._top(list).extend(group)

    def setitem(self) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    def setitems(self) -> None:
        self._set_items(self._group())

    def additems(self) -> None:
        group = self._group()
        self._top(set).update(map(checked_key, group))

    def _set_items(self, group: list[Any]) -> None:
        if len(group) % 2:
            raise Refused("is no readable pickle (a key without a value)")
        target = self._top(dict)
        for key, value in zip(group[::2], group[1::2], strict=True):
            target[checked_key(key)] = value

    # What is named.

    def global_lines(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(self._find(_text(module), _text(name)))

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(self._find(module, name))

    def _find(self, module: Any, name: Any) -> Named:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("is no readable pickle (a name that is no text)")
        found = self._names.get((module, name))
        if found is None:
            raise Refused(f"asks for {module[:80]}.{name[:80]}; nothing of it was run")
        return found

    def reduce(self) -> None:
        arguments = self._pop()
        named = self._pop()
        self._stack.append(self._called(named, arguments))

    def newobj(self) -> None:
        self.reduce()

    def newobj_ex(self) -> None:
        if self._pop() != {}:
            raise Refused("calls a function with named arguments")
        self.reduce()

    def _called(self, named: Any, arguments: Any) -> Any:
        if not isinstance(named, Named) or named.call is None or type(arguments) is not tuple:
            raise Refused(f"calls {getattr(named, 'name', _kind(named))}; nothing of it was run")
        # A value that is remembered can be handed over again and again by two bytes each.
        self._spend(sum(len(one) for one in arguments if hasattr(one, "__len__")))
        if self._left < 0:
            raise Refused("asks for more work than any honest file")
        return named.call(*arguments)

    def build(self) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, Unfinished):
            target.build(state)
        elif type(target) is not dict:  # an OrderedDict's attributes are not content
            raise Refused(f"gives a state to {_kind(target)}")

    def persistent_line(self) -> None:
        self._stack.append(self._persisted(_text(self._line())))

    def persistent_id(self) -> None:
        self._stack.append(self._persisted(self._pop()))

    def _persisted(self, identity: Any) -> Any:
        if self._persistent is None:
            raise Refused("refers to content outside of it")
        return self._persistent(identity)


_STOP = ord(".")
_CONTAINER = 9  # the work that making one counts as
_METHODS = {
    **{b"(": "mark", b"0": "pop", b"1": "pop_mark", b"2": "dup", b"\x80": "protocol"},
    **{b"\x95": "frame", b"\x94": "memoize", b"p": "put", b"q": "binput", b"r": "long_binput"},
    **{b"g": "get", b"h": "binget", b"j": "long_binget", b"N": "none", b"\x88": "true"},
    **{b"\x89": "false", b"I": "int_line", b"L": "long_line", b"J": "binint", b"K": "binint1"},
    **{b"M": "binint2", b"\x8a": "long1", b"F": "float_line", b"G": "binfloat"},
    **{b"S": "string_line", b"V": "unicode_line", b"U": "short_binstring", b"T": "binstring"},
    **{b"\x8c": "short_binunicode", b"X": "binunicode", b"\x8d": "binunicode8"},
    **{b"C": "short_binbytes", b"B": "binbytes", b"\x8e": "binbytes8", b"\x96": "binbytes8"},
    **{b"]": "empty_list", b")": "empty_tuple", b"}": "empty_dict", b"\x8f": "empty_set"},
    **{b"l": "list_of_group", b"t": "tuple_of_group", b"d": "dict_of_group"},
    **{b"\x91": "frozenset_of_group", b"\x85": "tuple1", b"\x86": "tuple2", b"\x87": "tuple3"},
    **{b"a": "append", b"e": "appends", b"s": "setitem", b"u": "setitems", b"\x90": "additems"},
    **{b"c": "global_lines", b"\x93": "stack_global", b"R": "reduce", b"\x81": "newobj"},
    **{b"\x92": "newobj_ex", b"b": "build", b"P": "persistent_line", b"Q": "persistent_id"},
}
# A number beyond is its own hash no more, so that keys could be made to collide.
_LARGEST_KEY = 2**61 - 1
_LONGEST_KEY = 8  # values of a tuple that is a key


def checked_key(key: Any) -> Any:
    """A key of a dict or a member of a set, if it is one that nobody can make to collide at will.

    Raises:
      Refused: it is none, such as a list or a fraction.
    """
    plain = getattr(key, "item", None)  # of a NumPy scalar
    value = plain() if plain is not None and not isinstance(key, Unfinished) else key
    if value is None or isinstance(value, (str, bytes)):
        return key
    if isinstance(value, int) and abs(value) < _LARGEST_KEY:
        return key
    if isinstance(value, tuple) and len(value) <= _LONGEST_KEY:
        for one in value:
            if isinstance(one, tuple):
                break
            checked_key(one)
        else:
            return key
    raise Refused(f"has {_kind(key)} as a key, expected text, whole numbers or a few of them")


class _Finishing:
    """Puts values in the place of unfinished ones, and measures what has been read."""

    def __init__(self, limits: Limits):
        self._limits = limits
        # By identity, which is no other value's as long as the whole is there: the value, and how
        # many are in it.
        self._done: dict[int, tuple[Any, int]] = {}

    def finished(self, value: Any) -> Any:
        return self._finish(value, 0)[0]

    def _finish(self, value: Any, depth: int) -> tuple[Any, int]:
        kind = type(value)
        if kind not in _CONTAINERS and not isinstance(value, (Unfinished, Named)):
            return value, 1
        if isinstance(value, Named):
            return value.name, 1
        known = self._done.get(id(value))
        if known is not None:
            if known is _UNDER_WAY:
                raise Refused("holds a container that is in itself")
            return known
        if depth >= self._limits.depth:
            raise Refused(f"nests containers more than {self._limits.depth} deep")
        self._done[id(value)] = _UNDER_WAY
        if isinstance(value, Unfinished):
            result = value.finish(), 1
        elif kind is dict:
            result = self._dict(value, depth + 1)
        else:
            pairs = [self._finish(one, depth + 1) for one in value]
            result = kind(one for one, _ in pairs), 1 + sum(count for _, count in pairs)
        if result[1] > self._limits.values:
            raise Refused(f"comes to more than {self._limits.values} values")
        self._done[id(value)] = result
        return result

    def _dict(self, value: dict[Any, Any], depth: int) -> tuple[dict[Any, Any], int]:
        new, count = {}, 1
        for key, one in value.items():
            new[key], inner = self._finish(one, depth)
            count += 1 + inner
        return new, count


_CONTAINERS = (list, tuple, dict, set, frozenset)
_UNDER_WAY = (None, 0)


def _decimal(line: bytes) -> int:
    """A whole number in decimals; Python bounds how many."""
    return int(line.decode("ascii"))


def _text(data: bytes) -> str:
    # As the writers have it: lone surrogates, of names that are no text, pass.
    return data.decode("utf-8", "surrogatepass")


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
