"""What the checks of the forward pass make of the network's outputs."""

import dataclasses

import numpy as np

from finecausal_jax.models.causal_graph import GRAPHS
from finecausal_jax.models.finecausal import Outputs
from finecausal_jax.verification import forward


def outputs(**fields):
    return Outputs(**dict.fromkeys(field.name for field in dataclasses.fields(Outputs)) | fields)


def test_weights_of_edges_become_the_matrix_that_cases_hold():
    graph = GRAPHS["complete"].without(source="query fused")
    edges = graph.connect(windows=2, samples=3)  # 24 nodes
    weights = np.random.default_rng(0).uniform(size=(1, 2, len(edges.senders))).astype(np.float32)
    causal = np.zeros((6, 2, 5), np.float32)
    out = outputs(graph=graph, causal_feature=causal, spatial_attention_layer2=weights)
    matrix = forward.attention_matrix(out, "spatial_attention_layer2")
    assert matrix.shape == (2, 24, 24)
    for number, edge in enumerate(zip(edges.receivers, edges.senders, strict=True)):
        np.testing.assert_array_equal(matrix[:, *edge], weights[0, :, number])
    assert np.count_nonzero(matrix) == weights.size
    # Messages of the query's fused windows are cut: nodes 12 to 17.
    assert not matrix[:, :, 12:18].any() and matrix[:, 12:18].any()
    (check,) = forward.tensors("case", {"spatial_attention_layer2": matrix}, out)
    assert check.passed
    (check,) = forward.tensors("case", {"spatial_attention_layer2": matrix.swapaxes(1, 2)}, out)
    assert not check.passed


def test_without_a_graph_a_recorded_matrix_is_missed():
    case = {"spatial_attention_layer1": np.zeros((4, 36, 36))}
    (check,) = forward.tensors("case", case, outputs())
    assert not check.passed
