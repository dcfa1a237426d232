"""Weight files that were cut or changed, that ask for code or memory, and honest ones."""

from __future__ import annotations

import functools
import io
import json
import pathlib
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.numpy

from finecausal_jax.interop.checkpoint_files import CHECKSUM, checksum_of, read_weights
from tests.reliability import hostile_pickles
from tests.reliability.case import EITHER, ERROR, READ, Case
from tests.reliability.forged_archives import archive

FLIPS, CUTS = 16, 8


def cases(folder: pathlib.Path, seed: int) -> Iterator[Case]:
    """Makes the inputs; see `damaged_runs.cases`."""
    rng = random.Random(seed)
    ran = folder / "ran"
    inputs = [(".pth", *one) for one in _pytorch(rng, ran)]
    inputs += [(".safetensors", *one) for one in _safetensors(rng)]
    for number, (kind, name, data, told) in enumerate(inputs):
        path = folder / f"{number}{kind}"
        path.write_bytes(data)
        yield Case(kind, name, functools.partial(read_weights, path), told, ran)


def _pytorch(rng: random.Random, ran: pathlib.Path) -> Iterator[tuple[str, bytes, str]]:
    honest = archive(name="conv3d_1a_7x7.w")
    yield "whole", honest, READ
    # Where a zip file is stored, its entries' names and sums are twice; few bytes say nothing.
    for number in range(FLIPS):
        data = bytearray(honest)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield f"flipped {number}", bytes(data), EITHER
    begin = honest.index(b"\x00\x00\x80\x3f")  # of the numbers
    for place in range(8):
        data = bytearray(honest)
        data[begin + place] ^= 1 << rng.randrange(8)
        yield f"flipped in a number {place}", bytes(data), ERROR
    for number in range(CUTS):
        yield f"cut {number}", honest[: rng.randrange(len(honest))], ERROR
    forged: dict[str, dict[str, Any]] = {
        "shape beyond the storage": {"shape": (4,)},
        "repeated values": {"shape": (3, 10**8), "strides": (1, 0)},
        "negative strides": {"strides": (-1,)},
        "negative shape": {"shape": (-3,)},
        "offset beyond": {"offset": 10**18},
        "offset of text": {"offset": "0"},
        "vast empty": {"shape": (0, 10**15), "strides": (1, 1)},
        "more dimensions than strides": {"shape": (3, 1)},
        "a storage longer than its bytes": {"count": 10**9},
        "a storage that is not there": {"key": "7"},
        "a storage outside": {"key": "../../etc/passwd"},
        "no NaN is a weight": {"data": b"\x00\x00\xc0\x7f" * 3},
        "a type without meaning here": {"storage": "QInt8Storage"},
        "a function of another module": {"module": "os"},
        "TorchScript": {"entries": {"a/constants.pkl": b"\x80\x02).", "a/code/x.py": b"1"}},
        "two pickles": {"entries": {"b/data.pkl": b"N."}},
        "compressed": {"compress": zipfile.ZIP_DEFLATED},
        "a compressed bomb": {
            "compress": zipfile.ZIP_DEFLATED,
            "entries": {"a/data/1": b"\x00" * 300_000_000},
        },
        "many entries": {"entries": {f"a/data/{n}": b"" for n in range(1, 60_000)}},
    }
    for name, change in forged.items():
        # Whether a number is finite is looked at where the network is known.
        told = READ if name == "no NaN is a weight" else ERROR
        yield name, archive(name="conv3d_1a_7x7.w", **change), told
    yield "an overlapping bomb", _overlapping(), ERROR
    yield "a vast directory", b"PK\x03\x04" + b"\x00" * 10**6 + _end(2**31), ERROR
    yield "a tar file", b"\x00" * 257 + b"ustar" + b"\x00" * 250, ERROR
    yield "a zip file of arrays", _npz(), ERROR
    yield "a pickle of arrays", pickle.dumps({"conv3d_1a_7x7.w": np.ones(3)}), READ
    yield "a pickle of a list", pickle.dumps([np.ones(3)]), ERROR
    yield from _old_form(rng)
    for name, data in hostile_pickles.hostile(ran).items():
        if name.split()[0] in ("os.system,", "eval", "getoutput", "array", "length", "pointers"):
            yield f"inside: {name}", _around(data), ERROR


def _old_form(rng: random.Random) -> Iterator[tuple[str, bytes, str]]:
    """As PyTorch wrote before 1.6: pickles, then for each storage its length and bytes."""

    def plain(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    identity = b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("5") + plain("cpu")
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + identity[1:] + plain(3) + b"NtQK\x00"
    tensor += plain((3,)) + plain((1,)) + b"\x89ccollections\nOrderedDict\n)RtR"
    parts = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
        b"\x80\x02}" + plain("conv3d_1a_7x7.w") + tensor + b"s.",
        pickle.dumps(["5"], 2),
        struct.pack("<q3f", 3, 0, 1, 2),
    ]
    whole = b"".join(parts)
    yield "old form, whole", whole, READ
    for number in range(6):
        yield f"old form, cut {number}", whole[: rng.randrange(len(whole))], ERROR
    vast = struct.pack("<q3f", 2**60, 0, 1, 2)
    yield "old form, a vast storage", b"".join([*parts[:-1], vast]), ERROR
    yield "old form, another version", b"".join([parts[0], pickle.dumps(3, 2), *parts[2:]]), ERROR
    keys = pickle.dumps(["5", "6"], 2)
    yield "old form, other storages", b"".join([*parts[:4], keys, parts[5]]), ERROR


def _safetensors(rng: random.Random) -> Iterator[tuple[str, bytes, str]]:
    tensors = {"conv3d_1a_7x7.w": np.arange(24, dtype=np.float32).reshape(2, 12)}
    metadata = {CHECKSUM: checksum_of(tensors)}
    honest = safetensors.numpy.save(tensors, metadata)
    yield "whole", honest, READ
    yield "whole, by others", safetensors.numpy.save(tensors), READ
    begin = 8 + int.from_bytes(honest[:8], "little")
    for number in range(FLIPS):
        data = bytearray(honest)
        data[rng.randrange(begin, len(data))] ^= 1 << rng.randrange(8)
        yield f"flipped in a number {number}", bytes(data), ERROR
    for number in range(8):
        data = bytearray(honest)
        data[rng.randrange(begin)] ^= 1 << rng.randrange(8)
        yield f"flipped in the header {number}", bytes(data), EITHER
    for number in range(CUTS):
        yield f"cut {number}", honest[: rng.randrange(len(honest))], ERROR

    def headed(header: Any, length: int | None = None, data: bytes = b"\x00" * 96) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    one = {"dtype": "F32", "shape": [24], "data_offsets": [0, 96]}
    name = "conv3d_1a_7x7.w"
    yield "a vast header", headed({name: one}, 2**62), ERROR
    yield "a header of 100 MB", headed(b"{" + b" " * 10**8 + b"}"), ERROR
    yield "a deep header", headed(b"[" * 10**6), ERROR
    yield "no header", headed(b"[]"), ERROR
    yield "offsets beyond", headed({name: one | {"data_offsets": [0, 10**12]}}), ERROR
    yield "offsets backwards", headed({name: one | {"data_offsets": [96, 0]}}), ERROR
    yield "overlapping", headed({name: one, "b": one}), ERROR
    yield "a vast shape", headed({name: one | {"shape": [2**40, 2**40]}}), ERROR
    yield "a negative shape", headed({name: one | {"shape": [-24]}}), ERROR
    yield "another type", headed({name: one | {"dtype": "OBJ"}}), ERROR
    yield "a gap", headed({name: one | {"data_offsets": [4, 96], "shape": [23]}}), ERROR
    yield "empty", b"", ERROR


def _around(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", content)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def _end(directory_bytes: int) -> bytes:
    """The record at a zip file's end."""
    return b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 1, 1, directory_bytes, 0, 0)


def _overlapping() -> bytes:
    """A zip file whose thousand entries are all the same million bytes."""
    size = 10**6
    entry = (
        b"PK\x03\x04" + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, size, size, 8, 0) + b"a/data/0"
    )
    body = entry + b"\x00" * size
    directory = b""
    for number in range(1000):
        name = b"a/data.pkl" if not number else f"a/data/{number}".encode()
        directory += b"PK\x01\x02" + struct.pack(
            "<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, 0
        )
        directory += name
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 1000, 1000, len(directory), len(body), 0)
    return body + directory + end
