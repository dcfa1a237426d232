"""PyTorch's files read without it: the same content as PyTorch gives, or a reason."""

import collections
import pickle
import zipfile

import numpy as np
import pytest

from finecausal_jax.interop.pytorch_files import BFloat16, read_pytorch_file
from finecausal_jax.runtime.unpickling import Refused
from tests.reliability.forged_archives import archive


@pytest.fixture
def blob(torch):
    base = torch.arange(24, dtype=torch.float32)
    network = torch.nn.Linear(2, 3)
    return {
        **{str(t)[6:]: torch.arange(3).to(t) for t in (torch.float64, torch.float16, torch.int64)},
        **{str(t)[6:]: torch.arange(3).to(t) for t in (torch.int32, torch.int16, torch.int8)},
        **{str(t)[6:]: torch.arange(3).to(t) for t in (torch.uint8, torch.bool)},
        "view": base[4:16].reshape(3, 4).t(),
        "same storage": base,
        "steps": base[::5],
        "none of it": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
        "channels_last": torch.arange(48.0)
        .reshape(1, 3, 4, 4)
        .to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": network.state_dict(),
        "optimizer": torch.optim.Adam(network.parameters()).state_dict(),
        "size": torch.Size([2, 3]),
        "rho": np.float64(0.9447),
        "half": np.float16(0.5),
        "numbers": np.arange(3),
        7: [1, (2.5, None), "text", True],
    }


@pytest.mark.parametrize("form", ["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_it_is_what_pytorch_reads(tmp_path, torch, blob, form, protocol):
    path = tmp_path / "a.pth"
    torch.save(blob, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    _assert_same(read_pytorch_file(path), torch.load(path, weights_only=False))


def _assert_same(found, expected):
    if hasattr(expected, "detach"):
        expected = expected.detach().numpy()
    if isinstance(expected, (np.ndarray, np.generic)):
        assert type(found) is type(expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            _assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_same(one, other)
    else:
        assert found == expected


def test_arrays_that_pickle_wrote_are_read_too(tmp_path):
    path = tmp_path / "a.pth"
    content = collections.OrderedDict(a=np.arange(3.0))
    for protocol in range(6):
        path.write_bytes(pickle.dumps(content, protocol))
        assert np.array_equal(read_pytorch_file(path)["a"], content["a"])


def test_a_type_that_numpy_has_not_is_told(tmp_path, torch):
    torch.save([torch.ones(2, dtype=torch.bfloat16)], tmp_path / "a.pth")
    (found,) = read_pytorch_file(tmp_path / "a.pth")
    assert isinstance(found, BFloat16)


def test_every_changed_byte_of_a_tensor_is_found(tmp_path, torch):
    path = tmp_path / "a.pth"
    values = torch.arange(500, dtype=torch.float32)
    torch.save({"a": values}, path)
    whole = path.read_bytes()
    begin = whole.index(values.numpy().tobytes())
    for place in (begin, begin + 777, begin + 1999):
        data = bytearray(whole)
        data[place] ^= 16
        path.write_bytes(data)
        with pytest.raises(Refused, match="is damaged .*CRC-32.*fetch or copy it again"):
            read_pytorch_file(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": (4,)}, "tensor of shape"),
        ({"shape": (3, 10**8), "strides": (1, 0)}, "tensor of shape"),
        ({"shape": (1,), "strides": (-1,)}, "tensor of shape"),
        ({"shape": (0, 10**9), "strides": (1, 1)}, "an empty tensor of shape"),
        ({"offset": 1}, "tensor of shape"),
        ({"offset": -1}, "tensor of shape"),
        ({"count": 4}, "has 12 bytes in a/data/0, expected 4 of f4"),
        ({"key": "../1"}, "lacks the entry a/data/../1"),
        ({"key": "1"}, "lacks the entry a/data/1"),
        ({"module": "os"}, "asks for os._rebuild_tensor_v2; nothing of it was run"),
        ({"storage": "QInt8Storage"}, "asks for torch.QInt8Storage; nothing of it was run"),
        ({"entries": {"a/constants.pkl": b""}}, "is a TorchScript program"),
        ({"entries": {"b/data.pkl": b""}}, "has 2 entries data.pkl"),
        ({"compress": zipfile.ZIP_DEFLATED}, "has entries that are compressed"),
    ],
)
def test_tensors_that_their_file_does_not_hold_are_refused(tmp_path, change, reason):
    path = tmp_path / "a.pth"
    path.write_bytes(archive())
    assert np.array_equal(read_pytorch_file(path), [0, 1, 2])
    path.write_bytes(archive(**change))
    with pytest.raises(Refused, match=reason):
        read_pytorch_file(path)
