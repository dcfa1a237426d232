"""The bank of features: scores equal the direct ones, stopped builds go on, others are refused."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.scoring import bank, protocol

QUIET = {"progress": False}


@pytest.fixture
def variables():
    """The stand-in's weight, which only its comparison reads, beside encoders'."""
    return {
        "weight": jnp.float32(3.0),
        "params": {
            "base_model": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
            "video_encoder": {"backbone": {"scale": np.ones(2)}, "inc1": {"scale": np.ones(2)}},
            "regressor_delta1": {"bias": np.zeros(2, np.float32)},
        },
        "batch_stats": {"segmenter": {"mean": np.ones(3, np.float32)}},
    }


@pytest.fixture
def sources(train_source, test_source):
    return {"train": train_source, "test": test_source}


@pytest.fixture
def build(model, variables, settings, sources):
    """Builds a bank of 2 dives a shard: four shards of training dives and three of test dives."""

    def build(folder, sources=sources, variables=variables, settings=settings, **options):
        fingerprint = bank.make_fingerprint(model, variables, settings, sources)
        options = {"batch_size": 2, "shard_dives": 2, **QUIET, **options}
        return bank.build_bank(folder, fingerprint, model, variables, settings, sources, **options)

    return build


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where `built` keeps from test to test what it copies."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def built(tmp_path, finished, build):
    """A folder with a finished bank, and nothing else."""
    if not (finished / "bank").exists():
        build(finished / "bank")
    return shutil.copytree(finished / "bank", tmp_path / "bank")


@pytest.fixture
def load(model, variables, settings, sources):
    def load(folder, model=model, variables=variables, settings=settings, sources=sources):
        return bank.load_bank(folder, bank.make_fingerprint(model, variables, settings, sources))

    return load


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def same_dives(one, other):
    for a, b in zip(one, other, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


def test_scores_from_a_bank_equal_the_direct_ones(
    build, load, model, variables, settings, sources, tmp_path
):
    train, test = sources["train"], sources["test"]
    options = {"exemplars": 3, "video_batch": 2, **QUIET}
    want = protocol.evaluate(model, variables, test, train, settings, **options)
    assert build(tmp_path) == 12
    train.read.clear(), test.read.clear()
    encodings = load(tmp_path)
    got = protocol.evaluate(model, variables, test, train, settings, encodings=encodings, **options)
    assert train.read == test.read == []  # no video is decoded again
    same_dives(got.dives, want.dives)  # bit for bit: batches have the same shape
    assert got.metrics == want.metrics
    assert want.metrics["pairs"] == 11
    features = encodings["Cup_0", 0].features
    assert features.mask_logits is None
    assert features.frame_feature.dtype == np.float32


def test_a_bank_of_exemplars_leaves_the_queries_to_be_encoded(
    build, load, model, variables, settings, sources, tmp_path
):
    train, test = sources["train"], sources["test"]
    options = {"video_batch": 2, **QUIET}
    want = protocol.evaluate(model, variables, test, train, settings, **options)
    build(tmp_path, {"train": train})
    train.read.clear(), test.read.clear()
    encodings = load(tmp_path)
    assert set(encodings) == {info.key for info in train.infos}
    new = protocol.score_dives(
        model, variables, test, train, settings, rows=[3], encodings=encodings, **options
    )
    assert (train.read, set(test.read)) == ([], {3})  # a new dive costs one encoding
    same_dives(new, want.dives[3:4])


@pytest.mark.parametrize("killed_at", [1, 2, 5])  # in the first shard, between, in the test split
def test_a_build_that_was_stopped_ends_as_an_unbroken_one(
    build, load, sources, tmp_path, monkeypatch, killed_at
):
    build(tmp_path / "whole")
    write, shards = bank._write_shard, []

    def stop(path, encodings):
        if len(shards) == killed_at:
            path.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        shards.append(path)
        write(path, encodings)

    with monkeypatch.context() as patch:
        patch.setattr(bank, "_write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "broken")
    with pytest.raises(ValueError, match=rf"not finished: {7 - killed_at} of 7 shards.*goes on"):
        load(tmp_path / "broken")
    for source in sources.values():
        source.read.clear()
    done = sum((2, 2, 2, 1, 2, 2, 1)[:killed_at])
    assert build(tmp_path / "broken") == 12 - done
    assert min(sources["train"].read, default=7) == min(done, 7)  # finished shards stay as they are
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_a_finished_build_does_nothing_again(build, sources, built):
    before = content(built)
    sources["train"].read.clear()
    # Another batch size would plan shards of 3; the bank keeps those that it was begun with.
    assert build(built, batch_size=3) == 0
    assert sources["train"].read == []
    assert content(built) == before


def changed_encoder(model, variables, settings, sources):
    params = {**variables["params"], "base_model": {"kernel": np.ones((2, 3), np.float32)}}
    return {"variables": {**variables, "params": params}}


def changed_backbone(model, variables, settings, sources):
    video_encoder = {**variables["params"]["video_encoder"], "backbone": {"scale": np.zeros(2)}}
    params = {**variables["params"], "video_encoder": video_encoder}
    return {"variables": {**variables, "params": params}}


def changed_statistics(model, variables, settings, sources):
    return {"variables": {**variables, "batch_stats": {"segmenter": {"mean": np.zeros(3)}}}}


def changed_layout(model, variables, settings, sources):
    kernel = variables["params"]["base_model"]["kernel"].reshape(3, 2)  # the same bytes
    params = {**variables["params"], "base_model": {"kernel": kernel}}
    return {"variables": {**variables, "params": params}}


def changed_model(model, variables, settings, sources):
    return {"model": dataclasses.replace(model, window_stride=2)}


def changed_frames(model, variables, settings, sources):
    return {"settings": dataclasses.replace(settings, resize_height=16)}


def changed_dives(model, variables, settings, sources):
    train = sources["train"]
    return {"sources": {**sources, "train": type(train)(train.infos[:-1])}}


def changed_pixels(model, variables, settings, sources):
    """Another release of the same dives."""
    train = sources["train"]
    other = type(train)(train.infos)
    other.fingerprint = "another release"
    return {"sources": {**sources, "train": other}}


def changed_labels(model, variables, settings, sources):
    test = sources["test"]
    first = dataclasses.replace(test.infos[0], frame_labels=np.repeat([1, 2, 3], [4, 2, 2]))
    return {"sources": {**sources, "test": type(test)([first, *test.infos[1:]])}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (changed_encoder, "weights"),
        (changed_backbone, "weights"),
        (changed_statistics, "weights"),
        (changed_layout, "weights"),
        (changed_model, "model.window_stride"),
        (changed_frames, "preprocessing.resize_height"),
        (changed_dives, "dives.train"),
        (changed_pixels, "dives.train"),
        (changed_labels, "dives.test"),
    ],
)
def test_a_bank_of_something_else_is_refused(
    load, built, model, variables, settings, sources, change, field
):
    before = content(built)
    other = change(model, variables, settings, sources)
    match = rf"--overwrite:\n  {field}: the bank has .+, expected [^\n]+$"  # this field alone
    with pytest.raises(ValueError, match=match):
        load(built, **other)
    arguments = {"model": model, "variables": variables, "settings": settings, "sources": sources}
    arguments |= other
    fingerprint = bank.make_fingerprint(**arguments)
    make = {"batch_size": 2, "shard_dives": 2, **QUIET}
    with pytest.raises(ValueError, match=match):
        bank.build_bank(built, fingerprint, **arguments, **make)
    assert content(built) == before
    bank.build_bank(built, fingerprint, **arguments, **make, overwrite=True)
    assert load(built, **other).keys() == {
        info.key for source in arguments["sources"].values() for info in source.infos
    }


def test_what_only_the_comparison_reads_does_not_make_a_bank_stale(load, variables, built):
    video_encoder = {**variables["params"]["video_encoder"], "inc1": {"scale": np.zeros(2)}}
    regressor = {"bias": np.ones(2, np.float32)}
    params = {**variables["params"], "regressor_delta1": regressor, "video_encoder": video_encoder}
    load(built, variables={**variables, "params": params, "weight": jnp.float32(9)})


def test_encoders_are_modules_of_the_network():
    network = FineCausal().bind({"params": {"awl": jnp.ones(3)}})
    encoders = (network.base_model, network.segmenter, network.video_encoder.backbone)
    assert tuple(module.path for module in encoders) == bank.ENCODERS


@pytest.mark.parametrize(
    ("platform", "precision", "products"),
    [
        ("cpu", None, "float32"),
        ("gpu", "highest", "float32"),
        ("gpu", None, "default of gpu"),
        ("tpu", "bfloat16", "bfloat16 of tpu"),
    ],
)
def test_how_products_round_belongs_to_a_bank(
    load, monkeypatch, built, platform, precision, products
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    with jax.default_matmul_precision(precision):
        if products == "float32":
            assert len(load(built)) == 12
        else:
            match = f"\n  products: the bank has 'float32', expected '{products}'$"
            with pytest.raises(ValueError, match=match):
                load(built)


def test_only_the_splits_that_were_asked_for_are_read(load, sources, built):
    """Nothing would say whether the others fit."""
    (built / "train-00003.npz").unlink()  # and they need not be finished
    test = {"test": sources["test"]}
    assert set(load(built, sources=test)) == {info.key for info in test["test"].infos}
    with pytest.raises(ValueError, match="not finished: 1 of 7 shards"):
        load(built)


def test_a_build_that_was_killed_at_once_goes_on(build, tmp_path):
    (tmp_path / ".bank.json.x3k2").write_text('{"fing')
    assert build(tmp_path) == 12
    assert not list(tmp_path.glob(".*"))


def test_every_setting_of_the_network_is_known_to_matter_or_not():
    """A new setting has to be put into one of the two."""
    comparison = {
        "embedding",
        "stage_frames",
        "stage_margin",
        "graph_scope",
        "graph_intervention",
        "temporal_attention",
        "graph_dropout",
        "attention_dropout",
        "dropout",
        "base_batch_norm",  # of training alone
        "delta_scale",
        "remat",  # changes no number
    }
    fields = {field.name for field in dataclasses.fields(FineCausal)} - {"parent", "name"}
    assert fields - comparison == set(bank.ENCODER_SETTINGS)


def test_a_truncated_shard_is_named_and_mended_by_deleting_it(build, load, built):
    before = content(built)
    shard = built / "train-00001.npz"
    os.truncate(shard, 200)
    with pytest.raises(ValueError, match=r"train-00001\.npz cannot be read.*delete it and run"):
        load(built)
    shard.unlink()
    assert build(built) == 2
    assert content(built) == before


def test_a_changed_byte_in_a_shard_is_found(load, built):
    shard = built / "train-00001.npz"
    data = bytearray(shard.read_bytes())
    with np.load(shard) as arrays:
        place = data.find(arrays["frame_feature"].tobytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"train-00001\.npz cannot be read.*CRC"):
        load(built)


def test_a_folder_that_is_no_bank_is_left_alone(build, load, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt but no bank\.json.*--output"):
        build(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"no exemplar bank in .*`launch\.py bank` makes one"):
        load(tmp_path)
    (tmp_path / "bank.json").write_text(json.dumps({"shards": []}))
    with pytest.raises(ValueError, match=r"bank\.json is no bank's index.*make the bank again"):
        load(tmp_path)
    assert sorted(content(tmp_path)) == ["bank.json", "notes.txt"]


_TWO_DEVICES = """
import sys
import jax
import numpy as np
sys.path.insert(0, sys.argv[1])
import conftest
from finecausal_jax.scoring import bank
from finecausal_jax.runtime import layout

mesh = layout.make_mesh()
assert mesh.size == 2
train = conftest.Source([conftest.info("Cup", row, "101b", 10.0 + row, 2.0) for row in range(7)])
model, settings = conftest.FakeModel(), conftest.SETTINGS
fingerprint = bank.make_fingerprint(model, {}, settings, {"train": train})
bank.build_bank(
    sys.argv[2], fingerprint, model, {}, settings, {"train": train},
    batch_size=4, shard_dives=4, sharding=layout.over_data(mesh), progress=False,
)
"""


def test_two_devices_make_the_same_bank(model, settings, make_info, make_source, tmp_path):
    here = pathlib.Path(__file__).parent
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    arguments = [sys.executable, "-c", _TWO_DEVICES, str(here), str(tmp_path / "two")]
    subprocess.run(arguments, check=True, env=environment, cwd=here.parents[1])
    train = make_source([make_info("Cup", row, "101b", 10.0 + row, 2.0) for row in range(7)])
    fingerprint = bank.make_fingerprint(model, {}, settings, {"train": train})
    options = {"batch_size": 4, "shard_dives": 4, **QUIET}
    bank.build_bank(tmp_path / "one", fingerprint, model, {}, settings, {"train": train}, **options)
    one, two = (bank.load_bank(tmp_path / name, fingerprint) for name in ("one", "two"))
    assert list(one) == list(two) == [("Cup", row) for row in range(7)]
    # Half a batch a device may add up in another order: a few roundings of float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)
