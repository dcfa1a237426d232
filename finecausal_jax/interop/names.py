"""The one table that relates tensor names of released PyTorch checkpoints to Flax leaves.

A PyTorch name is `module/key`, for example `decoder1/model.0.attn.q_map.weight`; a Flax name is
`collection/path`, for example `params/decoder1/layer_0/attn/q_map/kernel`. Every rule is written
once, as a pair of templates, and compiled for both directions, so the two cannot drift apart. A
tensor that the model does not use is dropped by a rule that carries its reason. What no rule
knows is an error of the caller.
"""

from __future__ import annotations

import dataclasses
import functools
import re


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array is laid out on both sides.

    Attributes:
      axes: for each Flax axis, the PyTorch axis it comes from.
      extra: PyTorch axes of length 1 that Flax does not have.
      rank: number of PyTorch axes; None where any will do.
    """

    axes: tuple[int, ...] | None = None
    extra: tuple[int, ...] = ()
    rank: int | None = None


AS_IS = Layout()
VECTOR = Layout(rank=1)
SCALAR = Layout(rank=0)
CONV3D = Layout((2, 3, 4, 1, 0), rank=5)  # [o, i, d, h, w] -> [d, h, w, i, o]
TRANSPOSED3D = Layout((2, 3, 4, 0, 1), rank=5)  # [i, o, d, h, w] -> [d, h, w, i, o], not flipped
CONV2D = Layout((2, 3, 1, 0), rank=4)  # [o, i, h, w] -> [h, w, i, o]
CONV1D = Layout((2, 1, 0), rank=3)  # [o, i, k] -> [k, i, o]
POINTWISE1D = Layout((1, 0), extra=(2,), rank=3)  # [o, i, 1] -> [i, o]
LINEAR = Layout((1, 0), rank=2)  # [o, i] -> [i, o]
ATTENTION = Layout((1, 2), extra=(0,), rank=3)  # [1, heads, d] -> [heads, d]


def _with_bias(layout: Layout) -> dict[str, tuple[str, str, Layout]]:
    return {"weight": ("params", "kernel", layout), "bias": ("params", "bias", VECTOR)}


_LAYER_NORM = {"weight": ("params", "scale", VECTOR), "bias": ("params", "bias", VECTOR)}

# Kind of layer -> PyTorch leaf -> (Flax collection, Flax leaf, layout).
KINDS: dict[str, dict[str, tuple[str, str, Layout]]] = {
    "conv3d": _with_bias(CONV3D),
    "transposed3d": {"weight": ("params", "kernel", TRANSPOSED3D)},
    "conv2d": {"weight": ("params", "kernel", CONV2D)},
    "conv1d": _with_bias(CONV1D),
    "pointwise1d": _with_bias(POINTWISE1D),
    "linear": _with_bias(LINEAR),
    "layer_norm": _LAYER_NORM,
    "batch_norm": _LAYER_NORM
    | {
        "running_mean": ("batch_stats", "mean", VECTOR),
        "running_var": ("batch_stats", "var", VECTOR),
    },
    "gat": {"att": ("params", "att", ATTENTION), "bias": ("params", "bias", VECTOR)},
    "residual": {"residual_weight": ("params", "residual_weight", VECTOR)},
}

# The fields of a template, by letter.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_FIELDS = {
    "stem": r"conv3d_(?:1a_7x7|2b_1x1|2c_3x3)",
    "mixed": r"mixed_[345][b-f]",
    "inc": r"inc[0-9]*",
    "i": r"[0-9]+",
    "j": r"[0-9]+",
    "k": r"[0-9]+",
}


def _unit(source: str, target: str) -> list[tuple[str, str, str]]:
    return [
        (f"{source}.conv3d", f"{target}/conv3d", "conv3d"),
        (f"{source}.batch3d", f"{target}/batch3d", "batch_norm"),
    ]


def _trunk(source: str, target: str) -> list[tuple[str, str, str]]:
    return [
        *_unit(source + "{stem}", target + "{stem}"),
        *_unit(source + "{mixed}.branch_0", target + "{mixed}/branch_0"),
        *_unit(source + "{mixed}.branch_{i}.{j}", target + "{mixed}/branch_{i}_{j}"),
    ]


def _double_conv(source: str, target: str) -> list[tuple[str, str, str]]:
    # 2 and 5 of the reference's Sequential are ReLUs and hold nothing.
    return [
        (f"{source}.0", f"{target}/conv1", "conv1d"),
        (f"{source}.1", f"{target}/norm1", "batch_norm"),
        (f"{source}.3", f"{target}/conv2", "conv1d"),
        (f"{source}.4", f"{target}/norm2", "batch_norm"),
    ]


# (layer in a PyTorch file, layer in the Flax tree, kind)
LAYERS: tuple[tuple[str, str, str], ...] = (
    *_trunk("base_model/backbone.", "base_model/"),
    *_trunk("segmenter/", "segmenter/trunk/"),
    ("segmenter/side_prep{i}", "segmenter/side_prep{i}", "conv3d"),
    ("segmenter/score_dsn{i}", "segmenter/score_dsn{i}", "conv3d"),
    ("segmenter/upsample{i}", "segmenter/upsample{i}", "transposed3d"),
    ("segmenter/upsample{i}_", "segmenter/upsample{i}_", "transposed3d"),
    ("segmenter/fuse", "segmenter/fuse", "conv3d"),
    ("video_encoder/backbone.conv1", "video_encoder/backbone/conv1", "conv2d"),
    ("video_encoder/backbone.bn1", "video_encoder/backbone/bn1", "batch_norm"),
    *(
        (
            "video_encoder/backbone.layer{i}.{j}." + source,
            "video_encoder/backbone/layer{i}_{j}/" + target,
            kind,
        )
        for source, target, kind in (
            ("conv{k}", "conv{k}", "conv2d"),
            ("bn{k}", "bn{k}", "batch_norm"),
            ("downsample.0", "downsample_conv", "conv2d"),
            ("downsample.1", "downsample_norm", "batch_norm"),
        )
    ),
    *_double_conv("video_encoder/{inc}.conv.conv", "video_encoder/{inc}"),
    *_double_conv("video_encoder/down{i}.mpconv.1.conv", "video_encoder/down{i}"),
    *_double_conv("psnet_model/{inc}.conv.conv", "psnet_model/{inc}"),
    *_double_conv("psnet_model/down{i}.mpconv.1.conv", "psnet_model/down{i}"),
    ("psnet_model/tas.layer{i}", "psnet_model/tas/layer{i}", "linear"),
    *_double_conv("dim_reducer{i}/{inc}.conv.conv", "dim_reducer{i}/{inc}"),
    *_double_conv("dim_reducer{i}/down{j}.conv", "dim_reducer{i}/down{j}"),
    ("dim_reducer{i}/layer{j}", "dim_reducer{i}/layer{j}", "linear"),
    ("regressor_delta{i}/layer{j}", "regressor_delta{i}/layer{j}", "linear"),
    *(
        (f"decoder{{i}}/model.{{j}}.{source}", f"decoder{{i}}/layer_{{j}}/{target}", kind)
        for source, target, kind in (
            ("norm_q", "norm_q", "layer_norm"),
            ("norm_v", "norm_v", "layer_norm"),
            ("attn.q_map", "attn/q_map", "linear"),
            ("attn.k_map", "attn/k_map", "linear"),
            ("attn.v_map", "attn/v_map", "linear"),
            ("attn.proj", "attn/proj", "linear"),
            ("norm2", "norm2", "layer_norm"),
            ("mlp.fc{k}", "mlp/fc{k}", "linear"),
        )
    ),
    ("causal_intervention/", "causal_intervention", "residual"),
    ("causal_intervention/gat{i}", "causal_intervention/gat{i}", "gat"),
    ("causal_intervention/gat{i}.lin_l", "causal_intervention/gat{i}/lin_l", "linear"),
    ("causal_intervention/gat{i}.lin_r", "causal_intervention/gat{i}/lin_r", "linear"),
    ("causal_intervention/output.0", "causal_intervention/output_0", "linear"),
    ("causal_intervention/output.1", "causal_intervention/output_1", "layer_norm"),
    *(
        (
            f"temporal_causal_attn/encoder.attn_layers.{{i}}.{source}",
            f"temporal_causal_attn/layer_{{i}}/{target}",
            kind,
        )
        for source, target, kind in (
            ("attention.query_projection", "attention/query_projection", "linear"),
            ("attention.key_projection", "attention/key_projection", "linear"),
            ("attention.value_projection", "attention/value_projection", "linear"),
            ("attention.out_projection", "attention/out_projection", "linear"),
            ("conv{k}", "conv{k}", "pointwise1d"),
            ("norm{k}", "norm{k}", "layer_norm"),
        )
    ),
    ("temporal_causal_attn/encoder.norm", "temporal_causal_attn/norm", "layer_norm"),
)

# (PyTorch names, reason): tensors that the model has no use for.
DROPPED: tuple[tuple[str, str], ...] = (
    (r"regressor_delta3/layer[123]\.(?:weight|bias)", "regressor_delta3 is never called"),
    (
        r"video_encoder/backbone\.fc\.(?:weight|bias)",
        "ResNet's classifier: its pooled features are used instead",
    ),
    (
        r"[a-z_0-9]+/(?:.+\.)?num_batches_tracked",
        "BatchNorm's step count: only momentum=None would read it",
    ),
    (
        r"(?:base_model/backbone\.|segmenter/)conv3d_0c_1x1\.conv3d\.(?:weight|bias)",
        "Kinetics classifier: the trunk ends before it",
    ),
)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a PyTorch tensor goes: Flax collection, path within it, and the layouts' relation."""

    collection: str
    path: tuple[str, ...]
    layout: Layout

    @property
    def name(self) -> str:
        return "/".join((self.collection, *self.path))


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a Flax leaf comes from: module and key in a released file, and the layouts."""

    module: str
    key: str
    layout: Layout


def plain_key(key: str) -> str:
    """A key without what wrappers put into it: DataParallel, `torch.compile`, FSDP."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["module"]:
        del parts[0]
    return ".".join(parts)


def drop_reason(module: str, key: str) -> str | None:
    """Why the tensor `module/key` of a PyTorch file has no Flax leaf; None if no rule drops it."""
    name = f"{module}/{key}"
    for pattern, reason in DROPPED:
        if re.fullmatch(pattern, name):
            return reason
    return None


@functools.cache
def to_flax(module: str, key: str) -> Target | None:
    """The Flax leaf of the tensor `module/key`; None if no rule knows it (or a rule drops it)."""
    if drop_reason(module, key):
        return None
    for pattern, _, rule in _compiled():
        match = pattern.fullmatch(f"{module}/{key}")
        if match:
            path = rule.target.format(**match.groupdict())
            return Target(rule.collection, tuple(path.split("/")), rule.layout)
    return None


@functools.cache
def to_pytorch(collection: str, path: tuple[str, ...]) -> Source | None:
    """The tensor of a released file that fills the leaf `collection/path`; None if none does."""
    for _, pattern, rule in _compiled():
        match = pattern.fullmatch("/".join((collection, *path)))
        if match:
            module, key = rule.source.format(**match.groupdict()).split("/", 1)
            return None if drop_reason(module, key) else Source(module, key, rule.layout)
    return None


@dataclasses.dataclass(frozen=True)
class _Rule:
    source: str
    collection: str
    target: str
    layout: Layout


@functools.cache
def _compiled() -> tuple[tuple[re.Pattern, re.Pattern, _Rule], ...]:
    rules = [_Rule("awl/params", "params", "awl", VECTOR)]
    for source, target, kind in LAYERS:
        for leaf, (collection, flax_leaf, layout) in KINDS[kind].items():
            joined = source + leaf if source.endswith("/") else f"{source}.{leaf}"
            rules.append(_Rule(joined, collection, f"{target}/{flax_leaf}", layout))
    return tuple(
        (_pattern(rule.source), _pattern(f"{rule.collection}/{rule.target}"), rule)
        for rule in rules
    )


def _pattern(template: str) -> re.Pattern:
    pieces = re.split(r"\{(\w+)\}", template)
    text = "".join(
        f"(?P<{piece}>{_FIELDS[piece]})" if position % 2 else re.escape(piece)
        for position, piece in enumerate(pieces)
    )
    return re.compile(text)
