"""Pickles that ask for code, memory or minutes, damaged ones, and honest ones of all kinds."""

from __future__ import annotations

import collections
import functools
import os
import pathlib
import pickle
import random
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np

from finecausal_jax.runtime.errors import InputError
from tests.reliability.case import EITHER, ERROR, READ, Case
from tfds_finecausal.annotations import load_pickle

FLIPS, CUTS = 24, 10
# As Python 2 and NumPy 1 write `[np.arange(2), "caf\xe9", 3L]` in protocol 0, and the same in 2.
PYTHON_2_TEXT = (
    b"(lp0\ncnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\n"
    b"Rp6\n(I1\n(I2\ntp7\ncnumpy\ndtype\np8\n(S'i8'\np9\nI0\nI1\ntp10\nRp11\n(I3\nS'<'\np12\nNNNI-1\n"
    b"I-1\nI0\ntp13\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00"
    b"\\x00\\x00'\np14\ntp15\nbaS'caf\\xe9'\np16\naL3L\na."
)
PYTHON_2_BINARY = (
    b"\x80\x02]q\x00(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87"
    b"Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02i8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff"
    b"\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    b"\x00tbU\x04caf\xe9\x8a\x01\x03e."
)


def cases(folder: pathlib.Path, seed: int) -> Iterator[Case]:
    """Makes the inputs; see `damaged_runs.cases`."""
    rng = random.Random(seed)
    ran = folder / "ran"
    inputs = [(name, data, ERROR) for name, data in hostile(ran).items()]
    inputs += [(name, data, READ) for name, data in honest().items()]
    for number in range(FLIPS):
        data = bytearray(pickle.dumps(content(), protocol=number % 6))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        inputs.append((f"flipped {number}", bytes(data), EITHER))
    for number in range(CUTS):
        data = pickle.dumps(content(), protocol=number % 6)
        inputs.append((f"cut {number}", data[: rng.randrange(len(data))], ERROR))
    for number, (name, data, told) in enumerate(inputs):
        path = folder / f"{number}.pkl"
        path.write_bytes(data)
        yield Case("annotation pickle", name, functools.partial(read, path), told, ran)


def read(path: pathlib.Path) -> Any:
    """Reads a pickle as `build` does, which lists the file with what is wrong."""
    try:
        return load_pickle(path)
    except ValueError as error:
        raise InputError(str(error)) from None


def content() -> dict[Any, Any]:
    """What the release's tables are made of, and a few more kinds."""
    frames = np.array([489, 501])
    return {
        ("Final", 3): ["407c", 81.6, np.float64(3.4), frames, [1] * 40 + [2] * 30, frames],
        ("Semi", np.int64(4)): [np.str_("5253b"), np.arange(6.0).reshape(2, 3).T, None, True],
        "names": collections.OrderedDict([(1, "Forward"), (2, "2.5 Soms.Pike")]),
        "more": collections.defaultdict(
            list, {"x": [b"\x00\xff", {1, 2}, frozenset("a"), -(2**40)]}
        ),
        "texts": np.array(["a", "bc"]),
        "halves": np.zeros((0, 2), np.float16),
    }


def honest() -> dict[str, bytes]:
    """Pickles that are to be read, of all protocols and both generations of NumPy and Python."""
    found = {"Python 2, protocol 0": PYTHON_2_TEXT, "Python 2, protocol 2": PYTHON_2_BINARY}
    for protocol in range(6):
        data = pickle.dumps(content(), protocol=protocol)
        found[f"NumPy 2, protocol {protocol}"] = data
        if protocol < 4:  # there the name's length stands before it
            old = data.replace(b"numpy._core", b"numpy.core")
            found[f"NumPy 1, protocol {protocol}"] = old
    return found


class Calls:
    """Calls something when Python's own reader reads it."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(ran: pathlib.Path) -> dict[str, bytes]:
    """Pickles that are to be refused; those that would run something make the file `ran`."""
    touch = f"touch {ran}"
    found = {
        f"os.system, protocol {protocol}": pickle.dumps([1, Calls(os.system, touch)], protocol)
        for protocol in range(6)
    }
    found |= {
        "eval": pickle.dumps(Calls(eval, f"__import__('pathlib').Path({str(ran)!r}).touch()")),
        "getoutput": pickle.dumps(Calls(subprocess.getoutput, touch)),
        "getattr": b"cbuiltins\ngetattr\n(tR.",
        "numpy.load": pickle.dumps(Calls(np.load, str(ran))),
        "numpy.fromfile": pickle.dumps(Calls(np.fromfile, str(ran))),
        "instance": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "object": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
    }
    # Bytes that are taken for pointers, and other forged arrays.
    objects = pickle.dumps(Calls(np.ndarray, (3,), "O", b"A" * 24))
    found |= {"pointers by ndarray": objects}
    found |= {f"array {name}": data for name, data in _forged_arrays().items()}
    found |= {f"structure {name}": data for name, data in _structures().items()}
    found |= {f"length {name}": data for name, data in _lengths().items()}
    found |= {f"work {name}": data for name, data in _work().items()}
    return found


def _forged_arrays() -> dict[str, bytes]:
    def array(dtype: bytes, shape: bytes = b"K\x02\x85", data: bytes = b"\x00" * 16) -> bytes:
        return (
            b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
            b"(K\x01" + shape + dtype + b"\x89C" + bytes([len(data)]) + data + b"tb."
        )

    def dtype(code: bytes, state: bytes = b"") -> bytes:
        return b"cnumpy\ndtype\nX" + struct.pack("<I", len(code)) + code + b"\x89\x88\x87R" + state

    def state(size: int, middle: bytes = b"NNN", order: bytes = b"<") -> bytes:
        return (
            b"(K\x03X\x01\x00\x00\x00"
            + order
            + middle
            + b"J"
            + struct.pack("<i", size)
            + (b"J\xff\xff\xff\xffK\x00tb")
        )

    i8 = dtype(b"i8", state(-1))
    return {
        "of objects": array(dtype(b"O8", state(-1, order=b"|"))),
        "of records": array(dtype(b"V8", state(8, b"N(X\x01\x00\x00\x00at}"))),
        "of a subarray": array(dtype(b"i8", state(-1, b"cnumpy\ndtype\nNN"))),
        "of a wrong size": array(dtype(b"U4", state(999999))),
        "of no known type": array(dtype(b"int64, O")),
        "with a foreign type": array(b"X\x02\x00\x00\x00i8"),
        "with too few bytes": array(i8, data=b"\x00" * 8),
        "with too many bytes": array(i8, shape=b"K\x01\x85"),
        "with a negative axis": array(i8, shape=b"J\xff\xff\xff\xff\x85"),
        "with a vast shape": array(i8, shape=b"\x8a\x08" + b"\xff" * 7 + b"\x0f" + b"\x85"),
        "empty and vast": array(i8, b"K\x00J\xff\xff\xff\x7f\x86", b""),
        "of a thousand axes": array(i8, b"(" + b"K\x01" * 1000 + b"t", b"\x00" * 8),
        "of text without length": array(dtype(b"U0", state(0)), data=b""),
        "without a state": array(i8)[:47] + b".",
        "of another class": array(i8).replace(b"numpy\nndarray", b"builtins\nlist"),
        "scalar with too few bytes": b"\x80\x03cnumpy.core.multiarray\nscalar\n"
        + i8
        + b"C\x01a\x86R.",
        "function with a state": b"cnumpy.core.multiarray\nscalar\n}S'x'\nI1\nsb.",
    }


def _structures() -> dict[str, bytes]:
    return {
        "empty": b"",
        "no pickle": b"not a pickle",
        "nothing on the stack": b".",
        "a mark alone": b"(.",
        "values left over": b"NN.",
        "pop of nothing": b"0N.",
        "no mark": b"Nt.",
        "a key without a value": b"}(K\x01u.",
        "a list as key": b"}](K\x01u.",
        "a fraction as key": b"}G" + b"\x00" * 8 + b"Ns.",
        "appending to a number": b"K\x01K\x02a.",
        "items of a list": b"]K\x01K\x02s.",
        "memo that is empty": b"h\x07.",
        "in itself": b"]q\x00h\x00a.",
        "in itself by a tuple": b"]q\x00(h\x00ta.",
        "text without quotes": b"Sabc\n.",
        "text that is no UTF-8": b"X\x02\x00\x00\x00\xff\xfe.",
        "protocol 77": b"\x80\x4dN.",
        "an extension": b"\x82\x01.",
        "a persistent id": b"Pabc\n.",
        "a buffer elsewhere": b"\x80\x05\x97.",
        "named arguments": b"\x80\x04ccollections\nOrderedDict\n)}S'a'\nNs\x92.",
        "no stop": b"N" * 100,
        "a state of a list": b"]}b.",
    }


def _lengths() -> dict[str, bytes]:
    vast = struct.pack("<Q", 2**60)
    return {
        "of bytes": b"\x80\x05\x8e" + vast + b"a.",
        "of a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b"a.",
        "of text": b"\x80\x04\x8d" + vast + b"a.",
        "of a frame": b"\x80\x04\x95" + vast,
        "of an old text": b"T" + struct.pack("<i", -5) + b"a.",
        "of a number": b"\x8b" + struct.pack("<I", 2**31 - 1) + b"\x01.",
        "in decimals": b"L" + b"9" * 100_000 + b"L\n.",
        "memo index": b"Nr" + struct.pack("<I", 2**32 - 1) + b"0h\x00.",
        "memo index in decimals": b"Np99999999999999999999\n0h\x00.",
        "beyond the largest file": b"N0" * 17_000_000 + b"N.",
    }


def _work() -> dict[str, bytes]:
    deep = b"]" * 100_000 + b"a" * 99_999 + b"."
    doubled = b"]q\x00" + b"".join(
        b"0](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(39)
    )
    wide = (
        b"](" + b"K\x01" * 10_000 + b"eq\x000](" + b"h\x00" * 10_000 + b"eq\x010](" + b"h\x01" * 99
    )
    pairs = b"](" + b"K\x01K\x02\x86" * 50_000 + b"eq\x000"
    text = b"X" + struct.pack("<I", 10**6) + b"x" * 10**6 + b"q\x000"
    modulus = 2**61 - 1
    colliding = [(modulus * n).to_bytes(14, "little") for n in range(1, 60_000)]
    return {
        "deep": deep,
        "doubled lists": doubled + b".",
        "wide lists of wide lists": wide + b"e.",
        "colliding keys": b"}(" + b"".join(b"\x8a\x0e" + n + b"N" for n in colliding) + b"u.",
        "one list taken again and again": pairs
        + b"ccollections\nOrderedDict\nq\x010"
        + b"h\x01h\x00\x85R0" * 100_000
        + b"N.",
        "one text taken again and again": text
        + b"c_codecs\nencode\nq\x010]("
        + b"h\x01h\x00S'latin1'\n\x86R" * 100_000
        + b"e.",
        "sets": b"(" + b"\x8f" * 3_000_000 + b"t.",
        "dicts": b"(" + b"}" * 9_000_000 + b"t.",
        "numbers": b"(" + b"N" * 30_000_000 + b"t.",
    }
