"""The schema: what is read, refused, compared and explained."""

import ast
import dataclasses
import inspect
import json
import pathlib

import pytest

from configs import demo
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.settings import config as configs
from finecausal_jax.settings import default_config, read, schema, workdirs
from finecausal_jax.settings.schema import Affects
from tfds_finecausal.rendered import plan as rendered_plan

ROOT = pathlib.Path(__file__).parents[2]


def test_the_defaults_come_back():
    settings = read(default_config())
    assert settings == schema.Settings()
    assert configs.from_tree(json.loads(configs.to_json(settings)), "config.json") == settings
    assert read({}) == settings  # what an older version's config lacks has its default


def test_everything_wrong_is_told_at_once():
    config = demo.get_config()
    config.train.log_every, config.evaluate.pair_batch = 0, -1
    tree = config.to_dict()
    tree["train"]["epoch"] = 3
    tree["model"]["dtype"] = "float16"
    tree["model"]["stage_frames"] = (1, 2)
    tree["data"]["frames"] = "many"
    tree["train"]["base_lr"] = float("nan")
    tree["train"]["loss_weights"] = [1, float("nan"), 2]
    with pytest.raises(ValueError) as caught:
        read(tree)
    assert str(caught.value).split("; ") == [
        "config.train.epoch is no key of a config",
        "config.data.frames is 'many', expected int",
        "config.model.stage_frames is (1, 2), expected 3 whole numbers",
        "config.model.dtype is 'float16', expected float32 or bfloat16",
        "config.train.base_lr is nan, expected a finite number",
        "config.train.loss_weights is (1.0, nan, 2.0), expected 3 finite numbers",
        "config.train.log_every is 0, expected at least 1",
        "config.evaluate.pair_batch is -1, expected at least 1",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[]", "is no config of this version: expected an object, found list"),
        ('{"model": {"width": "wide"}}', "is no config of this version: config.model.width"),
        ("{", "expected the config of a run, found no JSON"),
        ("[" * 100_000, "expected the config of a run, found no JSON"),
        ("", "expected the config of a run, found an empty file; put the run's config.json back"),
        ("\0", "expected the config of a run, found no JSON"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, found):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json") as caught:
        workdirs.saved_settings(tmp_path)
    assert found in str(caught.value)


def test_help_has_every_key_with_its_value():
    config = demo.get_config()
    text = configs.help_text(config.to_dict())
    for name, field in schema.keys().items():
        assert f"--config.{name}=" in text
        assert field.metadata["help"].endswith((".", "."))
    assert "--config.train.epochs=10\n" in text
    assert "--config.train.base_model_lr=0.002\n" in text
    assert "--config.train.base_model_lr=none\n" in configs.help_text()


def test_every_key_is_read_somewhere():
    words = set()
    for room in ("finecausal_jax", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            if path.name == "schema.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    words.add(node.attr)
    # Keyword arguments of the network and of the renderer, both taken as a whole.
    words |= set(inspect.signature(FineCausal).parameters)
    words |= {field.name for field in dataclasses.fields(rendered_plan.Settings)}
    assert not [key for key in schema.keys() if key.rsplit(".", 1)[-1] not in words]


def test_the_renderer_and_the_network_know_every_key_of_theirs():
    for section, taker in (
        (schema.Rendered, {field.name for field in dataclasses.fields(rendered_plan.Settings)}),
        (schema.Model, set(inspect.signature(FineCausal).parameters)),
    ):
        assert {field.name for field in dataclasses.fields(section)} <= taker


def test_a_network_is_not_scored_under_another_config(tmp_path):
    config = demo.get_config()
    workdirs.claim(tmp_path, read(config))
    config.model.dtype = "bfloat16"  # how it is computed
    config.train.base_lr = 0.5  # no matter of scoring
    workdirs.refuse_other_network(tmp_path, read(config))
    config.model.delta_scale = 1.0  # changes no shape, only every score
    with pytest.raises(ValueError, match=r"model.delta_scale: was 8.0, is 1.0"):
        workdirs.refuse_other_network(tmp_path, read(config))


def test_a_workdir_of_another_config_is_refused(tmp_path):
    config = demo.get_config()
    workdirs.claim(tmp_path / "run", read(config))
    config.train.log_every = 3  # free to change
    workdirs.claim(tmp_path / "run", read(config))
    config.train.base_lr = 0.5
    with pytest.raises(ValueError, match=r"train.base_lr: was 0.002, is 0.5"):
        workdirs.claim(tmp_path / "run", read(config))


def test_what_features_depend_on_is_what_a_bank_tells_apart():
    fixed = {name for name, f in schema.keys().items() if f.metadata["affects"] is Affects.FEATURES}
    assert fixed == {
        *(f"data.{n}" for n in ("frames", "frame_size", "resize_width", "resize_height")),
        "data.keep_aspect",
        *(f"model.{n}" for n in ("windows", "window_frames", "window_stride")),
        *(f"model.{n}" for n in ("width", "frame_width")),
    }
