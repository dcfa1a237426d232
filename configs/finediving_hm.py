"""FineCausal on FineDiving-HM at full size: the reference's setting.

    python launch.py build --config=configs/finediving_hm.py
    python launch.py train --config=configs/finediving_hm.py --workdir=runs/finediving_hm
    python launch.py evaluate --config=configs/finediving_hm.py --workdir=runs/finediving_hm

Time and score on the real data: not yet run. (The paper reports Spearman 0.9447, R-l2 x100 0.2338.)
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the full-size config; every other config starts from it."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # What results are called wherever they are shown.
    config.data_name = "FineDiving-HM"

    config.data = data = ml_collections.ConfigDict()
    data.manual_dir = "data/FineDiving-HM"  # the release as downloaded, or as rendered
    data.data_dir = "data/tfds"  # what `build` writes and all else reads
    # "resized": `build` stores pixels already resized; the same results, faster, more disk.
    data.stored = "release"
    data.workers = 4  # processes that decode and resize; 0: a thread of the main process
    data.frames = 96
    data.frame_size = 112
    # Released weights saw frames squeezed to 112 x 200 (width x height), whatever their aspect.
    data.resize_width = 112
    data.resize_height = 200
    data.keep_aspect = False

    config.model = model = ml_collections.ConfigDict()  # keyword arguments of FineCausal
    model.windows = 9
    model.window_frames = 16
    model.window_stride = 10
    model.width = 1.0
    model.frame_width = 1.0
    model.embedding = 64
    model.stage_frames = (36, 60, 48)
    model.stage_margin = 5
    model.graph_scope = "pair"  # "batch": the reference's graph over the whole batch
    model.graph_intervention = True
    model.temporal_attention = True
    model.graph_dropout = 0.1
    model.attention_dropout = 0.1
    model.dropout = 0.01
    model.base_batch_norm = "running"  # "batch" where the trunk starts from random values
    model.delta_scale = 1.0  # points for one unit of the regressors' output
    model.dtype = "float32"  # or "bfloat16": to compute in; parameters and losses stay float32
    model.remat = "none"  # "blocks": computes the encoders again in the backward pass, for memory

    config.train = train = ml_collections.ConfigDict()
    train.epochs = 300
    train.batch_size = 2  # pairs a micro-batch, over all devices and hosts
    train.accumulate = 2  # micro-batches whose gradients one optimiser step adds up
    train.base_lr = 1e-3
    train.lr_factor = 0.1
    # Highest rate of the base trunk; None is base_lr * lr_factor, where it then stays.
    train.base_model_lr = ml_collections.config_dict.placeholder(float)
    train.warmup_epochs = 5
    train.schedule_epochs = 300  # one period of the cosine
    train.clip_norm = 0.0  # 0: no limit
    train.freeze_base = False
    train.static_labels_until = 1.0  # share of schedule_epochs; then predicted transitions
    train.kinetics_i3d = ""  # path of a .pth or .safetensors for both trunks
    train.imagenet_resnet34 = ""  # the same for the static encoder
    # Folder for compiled programs, so that the next start is quick; relative ones lie in --workdir.
    # Empty: none.
    train.compilation_cache = "compilation_cache"
    train.log_every = 10  # micro-batches
    train.checkpoint_every = 500  # micro-batches, besides every evaluation
    train.evaluate_every = 4  # epochs, before `evaluate_late_from`; 0: only at the end
    train.evaluate_every_late = 2
    train.evaluate_late_from = 50

    config.evaluate = evaluate = ml_collections.ConfigDict()
    evaluate.exemplars = 10
    evaluate.video_batch = 4  # videos encoded at once
    evaluate.pair_batch = 16  # pairs compared at once
    evaluate.max_dives = 0  # only the first so many test dives; 0: all

    config.benchmark = benchmark = ml_collections.ConfigDict()  # only `benchmark` reads it
    benchmark.batch_size = 1  # pairs of a forward pass and of a training step
    benchmark.warmup = 1  # runs thrown away after the first
    benchmark.threads = 0  # cores; 0: all that the process may use
    benchmark.matmul_size = 2048  # rows of the matrices whose product gives the peak
    benchmark.test_dives = 749  # FineDiving-HM's; a query's share of the bank follows from both
    benchmark.train_dives = 2251

    # Arguments of `render_release`; only `render` reads them.
    config.rendered = rendered = ml_collections.ConfigDict()
    rendered.train_dives = 40
    rendered.test_dives = 10
    rendered.width = 455
    rendered.height = 256
    rendered.seed = 0
    rendered.background_bias = 0.0
    return config
