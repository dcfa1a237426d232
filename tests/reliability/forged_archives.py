"""A small `.pth` put together by hand, right or with one part of it forged."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any


def archive(
    *,
    shape: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    offset: Any = 0,
    count: int = 3,
    key: str = "0",
    module: str = "torch._utils",
    storage: str = "FloatStorage",
    data: bytes = b"\x00\x00\x00\x00\x00\x00\x80\x3f\x00\x00\x00\x40",
    entries: dict[str, bytes] | None = None,
    compress: int = zipfile.ZIP_STORED,
    name: str = "",
) -> bytes:
    """The file of one tensor [0, 1, 2].

    Args:
      name: of the tensor in a dict; empty: the tensor alone.
      shape: of the tensor.
      strides: of the tensor, in values.
      offset: of the tensor in its storage.
      count: of the storage, as the pickle has it.
      key: of the storage.
      module: of the function that makes the tensor.
      storage: its type.
      data: what the file holds as storage 0.
      entries: more entries of the zip file.
      compress: how they are stored.
    """

    def plain(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without protocol and stop

    identity = (
        (b"(" + plain("storage") + f"ctorch\n{storage}\n".encode())
        + plain(key)
        + plain("cpu")
        + plain(count)
        + b"tQ"
    )
    tensor = b"(" + identity + plain(offset) + plain(shape) + plain(strides) + plain(False)
    tensor += b"ccollections\nOrderedDict\n)Rt"
    tensor = f"c{module}\n_rebuild_tensor_v2\n".encode() + tensor + b"R"
    content = b"\x80\x02" + (b"}" + plain(name) + tensor + b"s" if name else tensor) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/data/0", data)
        for entry, value in (entries or {}).items():
            file.writestr(entry, value)
    return buffer.getvalue()
