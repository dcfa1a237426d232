"""The orders that PyTorch keeps: modules in a released file, tensors in a module, Adam's groups.

A state dict does not need its order to load, but Adam's moments are stored by number: parameters
are counted in the order of the optimizer's groups, and within a module as they are registered.
"""

from __future__ import annotations

# Order of the state dicts in a released `best.pth`.
MODULES = (
    "base_model",
    "psnet_model",
    "decoder1",
    "decoder2",
    "decoder3",
    "decoder4",
    "regressor_delta1",
    "regressor_delta2",
    "regressor_delta3",
    "video_encoder",
    "dim_reducer3",
    "dim_reducer1",
    "dim_reducer2",
    "causal_intervention",
    "temporal_causal_attn",
    "awl",
    "segmenter",
)

# What FineCausal added to FineParser: absent from FineParser's checkpoints.
CAUSAL_MODULES = ("causal_intervention", "temporal_causal_attn", "awl")

# Order of the reference's optimizer groups, one module each (`build_opti_sche` in its
# `tools/builder.py`); FineParser's is the same without the last three. It is not the file's order.
OPTIMIZER_GROUPS = (
    "base_model",
    "psnet_model",
    "decoder1",
    "decoder2",
    "decoder3",
    "decoder4",
    "regressor_delta1",
    "regressor_delta2",
    "regressor_delta3",
    "dim_reducer3",
    "segmenter",
    "video_encoder",
    "dim_reducer1",
    "dim_reducer2",
    "causal_intervention",
    "temporal_causal_attn",
    "awl",
)


def state_order(module: str, key: str) -> tuple:
    """Sort key that puts tensors in the order in which PyTorch registers and saves them."""
    ranks = [
        (int(part), "") if part.isdigit() else (_RANKS.get(part, len(_RANKS)), part)
        for part in key.split(".")
    ]
    return (MODULES.index(module) if module in MODULES else len(MODULES), module, ranks)


# Registration order of the reference's submodules and tensors, for names that are not numbers.
# One list serves all modules, since no two of them disagree.
_RANKS = {
    name: rank
    for rank, name in enumerate(
        (
            "residual_weight att weight bias running_mean running_var num_batches_tracked "
            "conv3d_1a_7x7 conv3d_2b_1x1 conv3d_2c_3x3 mixed_3b mixed_3c mixed_4b mixed_4c "
            "mixed_4d mixed_4e mixed_4f mixed_5b mixed_5c conv3d_0c_1x1 "
            "branch_0 branch_1 branch_2 branch_3 conv3d batch3d "
            "side_prep1 score_dsn1 upsample1 upsample1_ side_prep2 score_dsn2 upsample2 upsample2_ "
            "side_prep3 score_dsn3 upsample3 upsample3_ side_prep4 score_dsn4 upsample4 upsample4_ "
            "fuse backbone attention conv1 bn1 conv2 bn2 downsample norm1 norm_q norm_v attn norm2 "
            "mlp query_projection key_projection value_projection out_projection "
            "q_map k_map v_map proj fc1 fc2 "
            "inc inc1 down11 down12 down13 inc2 down21 down22 down23 inc3 down31 down32 down33 "
            "down1 down4 down5 down6 down7 conv mpconv tas layer0 layer1 layer2 layer3 layer4 fc "
            "gat1 gat2 lin_l lin_r output attn_layers norm encoder model params"
        ).split()
    )
}
