"""PyTorch's files, read without PyTorch and without running anything in them.

`torch.save` writes a zip file of a pickle and, for each storage, its bytes; before PyTorch 1.6 it
wrote five pickles and the bytes one after the other. Either is read here into containers of NumPy
arrays. A tensor is a view of its storage, by an offset and strides, which are checked against the
storage's length, and that against the file's. The zip's checksums (CRC-32) are compared; the old
form has none.
"""

from __future__ import annotations

import functools
import math
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from finecausal_jax.runtime.pickled_arrays import PLAIN
from finecausal_jax.runtime.unpickling import Limits, Named, Refused, Unfinished, begin, load

LIMITS = Limits()  # of the pickle, in which a tensor takes some hundred bytes
MOST_ENTRIES = 50_000  # of a zip file; a network with its optimizer has some thousands
LONGEST_DIRECTORY = 16 * 2**20  # of a zip file, bytes
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old form
_TYPES = {
    **{"DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8"},
    **{"IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1"},
    **{"BoolStorage": "b1", "BFloat16Storage": "bfloat16"},
}
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
_AGAIN = "where you trust it, PyTorch writes the present form: torch.save(torch.load(OLD), NEW)"


class BFloat16(Unfinished):
    """A tensor of bfloat16, a type that NumPy has not."""

    def finish(self) -> BFloat16:
        return self


def read_pytorch_file(path: pathlib.Path) -> Any:
    """The content of a file that `torch.save` wrote, or of a pickle of NumPy arrays.

    Args:
      path: the file.

    Returns:
      Containers, numbers and text, with NumPy arrays in place of tensors, and `BFloat16`.

    Raises:
      Refused: it is something else, is damaged, or asks for anything but tensors, NumPy's arrays
        and plain containers; the text is the end of a sentence about the file.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if zipfile.is_zipfile(path):
        return _from_zip(path)
    if head.startswith(b"PK"):
        raise Refused("is no whole zip file, it is truncated: fetch or copy it again")
    if head[257:262] == b"ustar":
        raise Refused(f"has the form of PyTorch's first versions, a tar file: {_AGAIN}")
    data = path.read_bytes()
    content, end = load(data, _names(), persistent=_no_storage, limits=LIMITS)
    return _from_old_form(data, end) if content == _MAGIC else content


class _Storage:
    """Where a tensor's values are: their type, number, and how their bytes are had."""

    def __init__(self, kind: str, count: int, content: Callable[[], memoryview | bytes]):
        self.kind, self.count = kind, count
        self._content = content
        self._array: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """The values in a row; bytes are had once."""
        if self._array is None:
            self._array = np.frombuffer(self._content(), self.kind)
            if self._array.size != self.count:
                raise Refused(f"has {self._array.size} values in a storage of {self.count}")
        return self._array


class _Tensor(Unfinished):
    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        if not isinstance(storage, _Storage):
            raise Refused("has a tensor without a storage")
        sizes = [offset, *shape, *strides] if type(shape) is type(strides) is tuple else [None]
        if any(type(one) is not int or one < 0 for one in sizes) or len(shape) != len(strides):
            raise Refused(f"has a tensor of shape {str(shape)[:80]}, strides {str(strides)[:80]}")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        count = math.prod(shape)
        # A tensor that repeats its values could be of any size.
        if count and (last >= storage.count or count > storage.count):
            raise Refused(
                f"has a tensor of shape {shape}, strides {strides} at {offset} in a storage of "
                f"{storage.count} values"
            )
        if not count and max(shape) > 10**6:
            raise Refused(f"has an empty tensor of shape {shape}")
        self._storage, self._offset, self._shape, self._strides = storage, offset, shape, strides

    def finish(self) -> np.ndarray | BFloat16:
        if self._storage.kind == "bfloat16":
            return BFloat16()
        if not math.prod(self._shape):
            return np.empty(self._shape, self._storage.kind)
        array = self._storage.array()[self._offset :]
        strides = [step * array.itemsize for step in self._strides]
        return np.lib.stride_tricks.as_strided(array, self._shape, strides, writeable=False)


def _from_zip(path: pathlib.Path) -> Any:
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            return _from_archive(archive, path.stat().st_size)
    except Refused:
        raise
    except Exception as error:  # damaged archives make zipfile raise nearly anything
        raise Refused(f"is damaged ({error}): fetch or copy it again") from None


def _check_directory(path: pathlib.Path) -> None:
    """Refuses a zip file whose list of entries would fill the memory; zipfile reads it whole."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16 - 200))
        end = file.read()
    # The record at the end, and its form for large files, hold the list's length in bytes.
    lengths = []
    for mark, offset, size in ((b"PK\x05\x06", 12, 4), (b"PK\x06\x06", 40, 8)):
        at = end.rfind(mark)
        if at >= 0:
            lengths.append(int.from_bytes(end[at + offset : at + offset + size], "little"))
    if any(LONGEST_DIRECTORY < length != 2**32 - 1 for length in lengths):
        raise Refused(f"lists entries in {max(lengths)} bytes, expected {LONGEST_DIRECTORY}")


def _from_archive(archive: zipfile.ZipFile, size: int) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(archive.infolist()) > MOST_ENTRIES:
        raise Refused(f"has {len(archive.infolist())} entries, expected at most {MOST_ENTRIES}")
    # PyTorch compresses nothing, so that no entry can come to more than is there.
    total = sum(entry.file_size for entry in archive.infolist())
    if total > size or any(entry.compress_type for entry in entries.values()):
        raise Refused("has entries that are compressed, unlike any file of PyTorch's")
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise Refused(f"has {len(pickles)} entries data.pkl, expected one")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise Refused(
            "is a TorchScript program: save the state_dict() of what torch.jit.load gives instead"
        )
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    known: dict[tuple[str, str], _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        kind, key, count, _ = _described(identity, 5)
        name = f"{folder}data/{key}"
        entry = entries.get(name)
        if entry is None:
            raise Refused(f"lacks the entry {name} that a tensor is in")
        if entry.file_size != count * _size_of(kind):
            raise Refused(f"has {entry.file_size} bytes in {name}, expected {count} of {kind}")
        if (key, kind) not in known:
            content = functools.partial(archive.read, name)
            known[key, kind] = _Storage(_ordered(kind, order), count, content)
        return known[key, kind]

    return load(archive.read(pickles[0]), _names(), persistent=persistent, limits=LIMITS)[0]


def _from_old_form(data: bytes, at: int) -> Any:
    names = _names()
    version, at = load(data, names, limits=LIMITS, start=at)
    system, at = load(data, names, limits=LIMITS, start=at)
    if version != 1001 or not isinstance(system, dict):
        raise Refused(f"has the form of PyTorch's first versions, of number {version!r}: {_AGAIN}")
    order = b"little" if system.get("little_endian", True) else b"big"
    described: dict[str, tuple[str, int]] = {}
    places: dict[str, int] = {}

    def persistent(identity: Any) -> _Storage:
        kind, key, count, view = _described(identity, 6)
        if view is not None:
            raise Refused(f"has a storage that is a part of another: {_AGAIN}")
        described[key] = kind, count

        def content() -> memoryview:
            begin = places[key]
            return memoryview(data)[begin : begin + count * _size_of(kind)]

        return _Storage(_ordered(kind, order), count, content)

    # The bytes come last, and before them the order of the storages.
    finish, at = begin(data, names, persistent=persistent, limits=LIMITS, start=at)
    keys, at = load(data, names, limits=LIMITS, start=at)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(described):
        raise Refused("has other storages than its tensors")
    for key in keys:
        kind, count = described[key]
        places[key] = at + 8
        at += 8 + count * _size_of(kind)
        if at > len(data) or int.from_bytes(data[places[key] - 8 : places[key]], "little") != count:
            raise Refused("is no whole file, it is truncated or damaged: fetch or copy it again")
    return finish()


def _described(identity: Any, parts: int) -> tuple[str, str, int, Any]:
    """Type, key and number of values of a storage that a tensor names, and what follows."""
    if type(identity) is not tuple or len(identity) != parts or identity[0] != "storage":
        raise Refused("refers to something that is no storage")
    _, named, key, _, count, *rest = identity
    kind = _TYPES.get(named.name.removeprefix("torch.")) if isinstance(named, Named) else None
    if kind is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise Refused("refers to a storage without a type, key or length")
    return kind, key, count, rest[0] if rest else None


def _size_of(kind: str) -> int:
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


def _ordered(kind: str, order: bytes) -> str:
    return kind if kind == "bfloat16" else (">" if order.strip() == b"big" else "<") + kind


def _no_storage(identity: Any) -> Any:
    raise Refused("refers to storages that are not in it")


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    return tuple(lengths) if isinstance(lengths, (list, tuple)) else ()


def _names() -> dict[tuple[str, str], Named]:
    calls: dict[tuple[str, str], Callable[..., Any] | None] = {
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_tensor"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): _size,
        ("torch", "device"): lambda *names: ":".join(map(str, names))[:80],
    }
    calls |= {("torch", name): None for name in (*_TYPES, *_DTYPES)}
    return dict(PLAIN) | {key: Named(".".join(key), call) for key, call in calls.items()}
