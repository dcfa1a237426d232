"""FineParser's config against what the PyTorch twin gives (`record.py` says how it was recorded).

Limits are those of the reference's own cases (`verification.checks`), for the same reasons.
"""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finediving_hm, fineparser
from finecausal_jax.interop import names
from finecausal_jax.interop.expected import Expected
from finecausal_jax.interop.pytorch import convert_state, rename_to_pytorch
from finecausal_jax.models.finecausal import Features
from finecausal_jax.settings import read
from finecausal_jax.settings.things import make_model
from finecausal_jax.training import losses
from finecausal_jax.verification import checks
from tests.fineparser import record

# Biases in front of a BatchNorm with batch statistics: zero but for rounding.
VANISHING = ("conv.0.bias", "conv.3.bias")


@pytest.fixture(scope="module")
def golden():
    return json.loads(record.GOLDEN.read_text())


@pytest.fixture(scope="module")
def seeded():
    return record.seeded()


@pytest.fixture(scope="module")
def model():
    return make_model(read(fineparser.get_config()))


@pytest.fixture(scope="module")
def variables(seeded):
    state = record.state(seeded)
    expected = {
        (module, key): Expected(value.shape, value.dtype, names.to_flax(module, key))
        for module, tensors in state.items()
        for key, value in tensors.items()
    }
    conversion = convert_state(state, expected)
    assert not conversion.problems
    return conversion.variables


@pytest.fixture(scope="module")
def features(seeded):
    return Features(*seeded.features(record.SEED, record.PAIRS))


def test_the_golden_file_says_what_made_it(golden):
    assert golden["made_with"].startswith("PyTorch 2.")
    assert (golden["seed"], golden["pairs"]) == (record.SEED, record.PAIRS)
    assert golden["labels"] == record.LABELS


def test_the_config_differs_from_finecausals_in_fineparsers_choices():
    one, other = (read(config.get_config()) for config in (finediving_hm, fineparser))
    assert one.data == other.data and one.evaluate == other.evaluate
    changed = {
        name: value for name, value in vars(other.model).items() if value != vars(one.model)[name]
    }
    assert changed == {
        "graph_intervention": False,
        "without_graph": "fused",
        "temporal_attention": False,
        "target": "score",
        "loss_weighting": "sum",
    }


def test_evaluation_gives_what_the_twin_gives(golden, seeded, model, variables, features):
    run = jax.jit(functools.partial(model.apply, method="go_on"))
    out = jax.device_get(run(variables, features))
    np.testing.assert_array_equal(out.causal_feature, out.fused_feature)
    np.testing.assert_array_equal(out.dynamic_feature, out.stage_embedding)
    assert out.graph is out.stage_order is None
    for name in record.TENSORS:
        found, want = np.asarray(getattr(out, name)), np.array(golden["forward"][name])
        check = checks.exact if name == "transitions" else checks.compare
        assert check("FineParser", name, found, want).passed, name
    for name in record.PROBED:
        norm, product = record.probed(seeded, name, getattr(out, name))
        want_norm, want_product = golden["forward"][name]
        assert norm == pytest.approx(want_norm, rel=checks.FORWARD), name
        assert abs(product - want_product) < checks.FORWARD * want_norm, name


@pytest.mark.slow
def test_a_training_step_gives_what_the_twin_gives(golden, seeded, model, variables, features):
    labels = golden["labels"]
    score = jnp.array(labels["completeness"]) * jnp.array(labels["difficulty"])
    transitions = jnp.array(labels["transitions"], jnp.int32)

    @jax.jit
    def step(params, batch_stats, features):
        def loss_of(params, features):
            out, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                features,
                method="go_on",
                train=True,
                transitions=transitions,
                mutable=["batch_stats"],
            )
            aqa = sum(losses.delta_loss(out.delta, *jnp.split(score, 2)))
            tas = losses.transition_loss(out.transition_probability, transitions)
            parts = losses.plain_sum(aqa, tas, jnp.float32(labels["loss_mask"]))
            return parts.loss, (parts, updates)

        return jax.grad(loss_of, argnums=(0, 1), has_aux=True)(params, features)

    (params, inputs), (parts, updates) = jax.device_get(
        step(variables["params"], variables["batch_stats"], features)
    )
    for name, limit in (("loss", 2e-4), ("loss_aqa", 2e-4), ("loss_tas", 1e-5)):
        assert getattr(parts, name) == pytest.approx(golden["losses"][name], rel=limit), name

    found = {name: getattr(inputs, name) for name in vars(inputs) if name != "mask_logits"}
    for module, tensors in rename_to_pytorch({"params": params}).items():
        found |= {f"{module}/{key}": value for key, value in tensors.items()}
    check_gradients(seeded, found, golden["gradients"])
    statistics = rename_to_pytorch(updates)
    for name, want in golden["running_statistics_after"].items():
        module, key = name.split("/", 1)
        value = statistics[module][key]
        probe = seeded._uniform(f"probe/{name}", value.shape, -1, 1)
        assert checks.statistic("FineParser", name, value, probe, want).passed, name


def check_gradients(seeded, found, want):
    """Norms and probe products of each gradient; those that vanish against their module's norm."""
    assert found.keys() == want.keys()
    modules = {}
    for name, (norm, _) in want.items():
        module = name.split("/")[0]
        modules[module] = math.hypot(modules.get(module, 0.0), norm)
    norms, products = {}, {}
    for name, (want_norm, want_product) in want.items():
        norm, product = record.probed(seeded, name, found[name])
        if name.endswith(VANISHING):
            assert norm < checks.ZERO_GRADIENT * modules[name.split("/")[0]], name
            continue
        norms[name] = abs(norm / want_norm - 1)
        products[name] = abs(product - want_product) / want_norm
    for errors, limit, most in (
        (norms, checks.GRADIENT_NORM, checks.MOST_GRADIENT_NORMS),
        (products, checks.GRADIENT_PROBE, checks.MOST_GRADIENT_PROBES),
    ):
        worst = max(errors, key=errors.get)
        assert errors[worst] < limit, worst
        assert np.quantile(list(errors.values()), checks.MOST) < most
