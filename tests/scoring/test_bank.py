"""The bank of features: scores equal the direct ones, stopped builds go on, others are refused."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.layout import Layout
from finecausal_jax.scoring import bank, protocol
from finecausal_jax.scoring.protocol import Choice
from finecausal_jax.scoring.scorer import Scorer


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


SETTINGS = Preprocessing(8, 8, 8, 8)


def make_scorer(model, variables, settings=SETTINGS, **options):
    made_with = {"model.window_stride": model.window_stride}
    return Scorer(model, variables, settings, made_with=made_with, progress=False, **options)


@pytest.fixture
def scorer(model, variables, settings):
    return make_scorer(model, variables, settings, video_batch=2)


@pytest.fixture
def build(scorer, sources):
    """Builds a bank of 2 dives a shard: four shards of training dives and three of test dives."""

    def build(folder, sources=sources, scorer=scorer, **options):
        fingerprint = bank.make_fingerprint(scorer, sources)
        options = {"shard_dives": 2, **options}
        return bank.build_bank(folder, fingerprint, scorer, sources, **options)

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
def load(scorer, sources):
    def load(folder, scorer=scorer, sources=sources):
        return bank.load_bank(folder, bank.make_fingerprint(scorer, sources))

    return load


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def same_dives(one, other):
    for a, b in zip(one, other, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


def test_scores_from_a_bank_equal_the_direct_ones(build, load, scorer, sources, tmp_path):
    train, test = sources["train"], sources["test"]
    want = protocol.evaluate(scorer, test, train, Choice(3))
    assert build(tmp_path) == 12
    train.read.clear(), test.read.clear()
    encodings = load(tmp_path)
    got = protocol.evaluate(scorer, test, train, Choice(3), encodings=encodings)
    assert train.read == test.read == []  # no video is decoded again
    same_dives(got.dives, want.dives)  # bit for bit: batches have the same shape
    assert got.metrics == want.metrics
    assert want.metrics["pairs"] == 11
    features = encodings["Cup_0", 0].features
    assert features.mask_logits is None
    assert features.frame_feature.dtype == np.float32


def test_a_bank_of_exemplars_leaves_the_queries_to_be_encoded(
    build, load, scorer, sources, tmp_path
):
    train, test = sources["train"], sources["test"]
    want = protocol.evaluate(scorer, test, train, Choice())
    build(tmp_path, {"train": train})
    train.read.clear(), test.read.clear()
    encodings = load(tmp_path)
    assert set(encodings) == {info.key for info in train.infos}
    new = protocol.score_dives(scorer, test, train, Choice(), rows=[3], encodings=encodings)
    assert (train.read, set(test.read)) == ([], {3})  # a new dive costs one encoding
    same_dives(new, want.dives[3:4])


@pytest.mark.parametrize("killed_at", [1, 2, 5])  # in the first shard, between, in the test split
def test_a_build_that_was_stopped_ends_as_an_unbroken_one(
    build, load, sources, tmp_path, monkeypatch, killed_at
):
    build(tmp_path / "whole")
    write, shards = bank._write_shard, []

    def stop(path, part):
        if len(shards) == killed_at:
            path.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        shards.append(path)
        write(path, part)

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


def test_a_whole_build_is_not_said_to_have_stopped(build, scorer, tmp_path, capsys):
    assert build(tmp_path / "bank", scorer=dataclasses.replace(scorer, progress=True)) == 12
    shown = capsys.readouterr().err
    assert "encoding test dives: 5 of 5 videos in" in shown and "stopped" not in shown


def test_a_finished_build_does_nothing_again(build, scorer, sources, built):
    before = content(built)
    sources["train"].read.clear()
    # Another batch size would plan shards of 3; the bank keeps those that it was begun with.
    assert build(built, scorer=dataclasses.replace(scorer, video_batch=3)) == 0
    assert sources["train"].read == []
    assert content(built) == before


def changed_encoder(scorer, sources):
    params = {**scorer.variables["params"], "base_model": {"kernel": np.ones((2, 3), np.float32)}}
    return {"scorer": dataclasses.replace(scorer, variables={**scorer.variables, "params": params})}


def changed_backbone(scorer, sources):
    video_encoder = {
        **scorer.variables["params"]["video_encoder"],
        "backbone": {"scale": np.zeros(2)},
    }
    params = {**scorer.variables["params"], "video_encoder": video_encoder}
    return {"scorer": dataclasses.replace(scorer, variables={**scorer.variables, "params": params})}


def changed_statistics(scorer, sources):
    return {
        "scorer": dataclasses.replace(
            scorer,
            variables={**scorer.variables, "batch_stats": {"segmenter": {"mean": np.zeros(3)}}},
        )
    }


def changed_layout(scorer, sources):
    kernel = scorer.variables["params"]["base_model"]["kernel"].reshape(3, 2)  # the same bytes
    params = {**scorer.variables["params"], "base_model": {"kernel": kernel}}
    return {"scorer": dataclasses.replace(scorer, variables={**scorer.variables, "params": params})}


def changed_model(scorer, sources):
    return {"scorer": dataclasses.replace(scorer, made_with={"model.window_stride": 2})}


def changed_frames(scorer, sources):
    sizes = dataclasses.replace(scorer.preprocessing, resize_height=16)
    return {"scorer": dataclasses.replace(scorer, preprocessing=sizes)}


def changed_dives(scorer, sources):
    train = sources["train"]
    return {"sources": {**sources, "train": type(train)(train.infos[:-1])}}


def changed_pixels(scorer, sources):
    """Another release of the same dives."""
    train = sources["train"]
    other = type(train)(train.infos)
    other.fingerprint = "another release"
    return {"sources": {**sources, "train": other}}


def changed_labels(scorer, sources):
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
def test_a_bank_of_something_else_is_refused(load, built, scorer, sources, change, field):
    before = content(built)
    other = change(scorer, sources)
    match = rf"--overwrite:\n  {field}: the bank has .+, expected [^\n]+$"  # this field alone
    with pytest.raises(ValueError, match=match):
        load(built, **other)
    arguments = {"scorer": scorer, "sources": sources} | other
    fingerprint = bank.make_fingerprint(**arguments)
    with pytest.raises(ValueError, match=match):
        bank.build_bank(built, fingerprint, **arguments, shard_dives=2)
    assert content(built) == before
    bank.build_bank(built, fingerprint, **arguments, shard_dives=2, overwrite=True)
    assert load(built, **other).keys() == {
        info.key for source in arguments["sources"].values() for info in source.infos
    }


def test_what_only_the_comparison_reads_does_not_make_a_bank_stale(load, scorer, built):
    variables = scorer.variables
    video_encoder = {**variables["params"]["video_encoder"], "inc1": {"scale": np.zeros(2)}}
    regressor = {"bias": np.ones(2, np.float32)}
    params = {**variables["params"], "regressor_delta1": regressor, "video_encoder": video_encoder}
    variables = {**variables, "params": params, "weight": jnp.float32(9)}
    load(built, scorer=dataclasses.replace(scorer, variables=variables))


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
def test_how_products_round_belongs_to_a_bank(load, scorer, built, platform, precision, products):
    devices = np.array([types.SimpleNamespace(platform=platform)])
    mesh = types.SimpleNamespace(devices=devices, shape={"data": 1})
    scorer = dataclasses.replace(scorer, layout=Layout(mesh))
    with jax.default_matmul_precision(precision):
        if products == "float32":
            assert len(load(built, scorer=scorer)) == 12
        else:
            match = f"\n  products: the bank has 'float32', expected '{products}'$"
            with pytest.raises(ValueError, match=match):
                load(built, scorer=scorer)


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


def test_a_truncated_shard_is_named_and_mended_by_deleting_it(build, load, built):
    before = content(built)
    shard = built / "train-00001.npz"
    os.truncate(shard, 200)
    with pytest.raises(ValueError, match=r"train-00001\.npz cannot be read.*delete it and run"):
        load(built)
    shard.unlink()
    assert build(built) == 2
    assert content(built) == before


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda array: np.full_like(array, np.nan), "holds values that are infinite or no numbers"),
        (lambda array: array[:1], "expected 2 dives"),
        (lambda array: array[:, :-1], "features of other shapes than the shards before it"),
    ],
)
def test_a_shard_of_other_values_or_shapes_is_named(load, built, change, found):
    """As somebody's script may write it, whole as a file."""
    shard = built / "train-00001.npz"
    with np.load(shard) as file:
        arrays = dict(file)
    np.savez(shard, **arrays | {"frame_feature": change(arrays["frame_feature"])})
    with pytest.raises(InputError, match=r"train-00001\.npz .*; delete it and run") as caught:
        load(built)
    assert found in str(caught.value)


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
    with pytest.raises(ValueError, match=r"bank\.json: expected a bank's.*make the bank again"):
        load(tmp_path)
    assert sorted(content(tmp_path)) == ["bank.json", "notes.txt"]


_TWO_DEVICES = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest
from finecausal_jax.scoring import bank

scorer = conftest.make_scorer(conftest.FakeModel(), {})
assert scorer.layout.mesh.size == 2
train = conftest.Source([conftest.info("Cup", row, "101b", 10.0 + row, 2.0) for row in range(7)])
fingerprint = bank.make_fingerprint(scorer, {"train": train})
bank.build_bank(sys.argv[2], fingerprint, scorer, {"train": train}, shard_dives=4)
"""


def test_two_devices_make_the_same_bank(model, make_info, make_source, tmp_path):
    here = pathlib.Path(__file__).parent
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    arguments = [sys.executable, "-c", _TWO_DEVICES, str(here), str(tmp_path / "two")]
    subprocess.run(arguments, check=True, env=environment, cwd=here.parents[1])
    train = make_source([make_info("Cup", row, "101b", 10.0 + row, 2.0) for row in range(7)])
    scorer = make_scorer(model, {})
    fingerprint = bank.make_fingerprint(scorer, {"train": train})
    bank.build_bank(tmp_path / "one", fingerprint, scorer, {"train": train}, shard_dives=4)
    one, two = (bank.load_bank(tmp_path / name, fingerprint) for name in ("one", "two"))
    assert list(one) == list(two) == [("Cup", row) for row in range(7)]
    # Half a batch a device may add up in another order: a few roundings of float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)
