"""The schema of a config: every key, its default, what it means and what it affects.

A config is read once, where a command begins (`config.read`); nothing below a command sees one.
From the fields here follow the checks, the keys that `--help` lists, what may differ when a run is
resumed or a trained network is scored, and what identifies a bank of features. Nothing here imports
JAX, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any


class Affects(enum.Enum):
    """What another value of a key changes."""

    FEATURES = "features"  # what the encoders make of a video, and with it scores and training
    ROUNDING = "rounding"  # the same up to rounding
    SCORES = "scores"  # what the network makes of features
    TRAINING = "training"  # what is learnt; a trained network scores alike
    REPORT = "report"  # which figures are computed, or how long a run goes on
    SPEED = "speed"  # time and memory
    NOTHING = "nothing"  # where things lie and what they are called


FIXED_ON_RESUME = (Affects.FEATURES, Affects.ROUNDING, Affects.SCORES, Affects.TRAINING)
FIXED_IN_SCORING = (Affects.FEATURES, Affects.SCORES)
FIXED_IN_A_BANK = (Affects.FEATURES, Affects.ROUNDING)


def key(
    default: Any,
    affects: Affects,
    help: str,
    *,
    least: int | float | None = None,
    most: int | float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a section.

    Args:
      default: its value where a config file says nothing else.
      affects: what another value changes.
      help: a sentence for people, with the unit.
      least, most: bounds of a number, inclusive.
      choices: the values of a text, where only some are known.
    """
    metadata = {"affects": affects, "help": help, "least": least, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set, and how videos are cut from it."""

    manual_dir: str = key(
        "data/FineDiving-HM", Affects.NOTHING, "The release as downloaded, or as rendered."
    )
    frames_folder: str = key(
        "FineDiving",
        Affects.NOTHING,
        "What the release calls its folder of frames: COMPETITION/INDEX/NUMBER.jpg, or a video "
        "COMPETITION/INDEX.mkv, .mp4 and so on of each dive.",
    )
    masks_folder: str = key(
        "FineDiving_HM", Affects.NOTHING, "What the release calls its folder of masks."
    )
    masks: str = key(
        "all",
        Affects.NOTHING,
        "Which dives of the release have masks: all; some, where a dive without a folder of masks "
        "has none; or none, where there is no such folder.",
        choices=("all", "some", "none"),
    )
    annotations_folder: str = key(
        "Annotations", Affects.NOTHING, "What the release calls its folder of tables."
    )
    data_dir: str = key("data/tfds", Affects.NOTHING, "What `build` writes and all else reads.")
    stored: str = key(
        "release",
        Affects.SPEED,
        "What `build` stores: the release's JPEG bytes, or pixels already resized, which give the "
        "same results, faster, for more disk.",
        choices=("release", "resized"),
    )
    split: str = key(
        "official",
        Affects.TRAINING,
        "Which dives train and which test: official, or competitions:GROUPS:TEST_GROUP with whole "
        "competitions held out; /first:N, /with_exemplars, /without_mtl_aqa or /only_mtl_aqa "
        "behind it narrow the test dives down.",
    )
    calibration_dives: int = key(
        0,
        Affects.TRAINING,
        "Training dives that are left out of training, so that evaluation learns on them how wide "
        "a score's interval has to be; 0 for no intervals.",
        least=0,
    )
    workers: int = key(
        4,
        Affects.SPEED,
        "Processes that decode and resize; 0 is a thread of the main process.",
        least=0,
    )
    frames: int = key(96, Affects.FEATURES, "Frames sampled from a dive.", least=2)
    frame_size: int = key(
        112, Affects.FEATURES, "Height and width of the square crop, pixels.", least=1
    )
    # Released weights saw frames squeezed to 112 x 200 (width x height), whatever their aspect.
    resize_width: int = key(
        112, Affects.FEATURES, "Width that images are resized to before the crop, pixels.", least=1
    )
    resize_height: int = key(200, Affects.FEATURES, "Height of the same, pixels.", least=1)
    keep_aspect: bool = key(
        False,
        Affects.FEATURES,
        "Keep the aspect ratio and crop sideways too; released weights have not seen that.",
    )
    crop_range: float = key(
        1.0,
        Affects.TRAINING,
        "Share of the places that a training crop can have, about the centre, that it is drawn "
        "from; 1 as the reference. With keep_aspect, all of them lose sight of the diver.",
        least=0,
        most=1,
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; keyword arguments of `FineCausal`."""

    windows: int = key(9, Affects.FEATURES, "Windows that the trunks see.", least=1)
    window_frames: int = key(16, Affects.FEATURES, "Frames of a window; a multiple of 4.", least=4)
    window_stride: int = key(10, Affects.FEATURES, "Frames from one window to the next.", least=1)
    width: float = key(1.0, Affects.FEATURES, "Channels of both I3D trunks, 1 as published.")
    frame_width: float = key(1.0, Affects.FEATURES, "Channels of ResNet-34, 1 as published.")
    embedding: int = key(64, Affects.SCORES, "Width of a stage's tokens.", least=1)
    stage_frames: tuple[int, ...] = key(
        (36, 60, 48), Affects.SCORES, "Frames that each stage is resampled to."
    )
    stage_margin: int = key(
        5, Affects.SCORES, "Frames by which stages overlap each transition.", least=0
    )
    graph_scope: str = key(
        "pair",
        Affects.TRAINING,
        "A graph a pair, or the reference's one graph over the whole batch of a training step.",
        choices=("pair", "batch"),
    )
    graph_intervention: bool = key(
        True, Affects.SCORES, "Whether graph attention corrects the motion features."
    )
    graph: str = key(
        "complete",
        Affects.SCORES,
        "What the graph takes in and connects: original and fused features, or one of the two.",
        choices=("complete", "original", "fused"),
    )
    graph_edges: str = key(
        "",
        Affects.SCORES,
        "Which edges of the graph are allowed, as 'fused to original within, own original to "
        "original earlier': SOURCE to TARGET TIME, of query or exemplar, original or fused, a "
        "source also of the own or the other video; within a window, earlier, later or any. "
        "Empty: all.",
    )
    without_graph: str = key(
        "original",
        Affects.SCORES,
        "Which motion features go on where there is no graph: the original ones, which the mask "
        "has no part in, or those fused with the mask feature, as in FineParser.",
        choices=("original", "fused"),
    )
    gate: str = key(
        "mask",
        Affects.SCORES,
        "What fused features are: motion weighted by the mask feature, or all of it (open).",
        choices=("mask", "open"),
    )
    paths: str = key(
        "both",
        Affects.SCORES,
        "Which halves of the difference are added up: single frames (static), motion through mask "
        "and graph (dynamic), or both as published.",
        choices=("both", "static", "dynamic"),
    )
    temporal_attention: bool = key(True, Affects.SCORES, "Whether stages attend to other stages.")
    stage_order: str = key(
        "causal",
        Affects.SCORES,
        "Which stages a stage attends to besides itself: earlier ones, all, none or later ones.",
        choices=("causal", "full", "none", "reversed"),
    )
    target: str = key(
        "completeness",
        Affects.SCORES,
        "What the network regresses the difference of: completeness (score over difficulty), or "
        "the score itself, as FineParser does. The exemplars' known values are of the same.",
        choices=("completeness", "score"),
    )
    loss_weighting: str = key(
        "learned",
        Affects.SCORES,  # not of scores, but of the network's parameters
        "How the three losses are added: with learned weights, which are parameters of the "
        "network, or as they are, as FineParser does.",
        choices=("learned", "sum"),
    )
    graph_dropout: float = key(0.1, Affects.TRAINING, "Dropout in the graph.", least=0, most=1)
    attention_dropout: float = key(
        0.1, Affects.TRAINING, "Dropout of the temporal attention's weights.", least=0, most=1
    )
    dropout: float = key(
        0.01, Affects.TRAINING, "Dropout elsewhere in the temporal encoder.", least=0, most=1
    )
    base_batch_norm: str = key(
        "running",
        Affects.TRAINING,
        "Statistics of the base trunk's BatchNorm while training: the running ones, as the "
        "reference keeps Kinetics', or the batch's, for a trunk from random values.",
        choices=("running", "batch"),
    )
    delta_scale: float = key(
        1.0, Affects.SCORES, "Points for one unit of the regressors' output; 1 as published."
    )
    dtype: str = key(
        "float32",
        Affects.ROUNDING,
        "What is computed in; parameters and losses stay float32.",
        choices=("float32", "bfloat16"),
    )
    remat: str = key(
        "none",
        Affects.SPEED,
        "What the backward pass computes again: the encoders' blocks, for memory, or nothing.",
        choices=("none", "blocks"),
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """Training. A micro-batch is what one step sees."""

    epochs: int = key(300, Affects.REPORT, "Passes over the training dives.", least=1)
    batch_size: int = key(
        2, Affects.TRAINING, "Pairs a micro-batch, over all devices and hosts.", least=1
    )
    accumulate: int = key(
        2,
        Affects.TRAINING,
        "Micro-batches whose gradients one optimiser step adds up.",
        least=1,
    )
    base_lr: float = key(1e-3, Affects.TRAINING, "Highest learning rate.")
    lr_factor: float = key(
        0.1, Affects.TRAINING, "Lowest rate as a share of the highest.", least=0, most=1
    )
    base_model_lr: float | None = key(
        None,
        Affects.TRAINING,
        "Highest rate of the base trunk; where left out, base_lr * lr_factor, constant.",
    )
    warmup_epochs: int = key(5, Affects.TRAINING, "Epochs of the rate's linear rise.", least=0)
    schedule_epochs: int = key(
        300, Affects.TRAINING, "Epochs of one period of the rate's cosine.", least=1
    )
    clip_norm: float = key(
        0.0, Affects.TRAINING, "Largest norm of the gradient; 0 is no limit.", least=0
    )
    freeze_base: bool = key(False, Affects.TRAINING, "Keep both I3D trunks as they are.")
    static_labels_until: float = key(
        1.0,
        Affects.TRAINING,
        "Share of schedule_epochs until which the static path is cut at labelled transitions, and "
        "then at predicted ones.",
        least=0,
    )
    loss_weights: tuple[float, ...] = key(
        (5.0, 1.0, 1.0),
        Affects.TRAINING,
        "Weights of the losses of difference, transitions and masks, beside those that are "
        "learned. The difference's is in points squared, so it drowns the mask's in the trunk that "
        "serves both.",
    )
    mask_foreground: float = key(
        0.5,
        Affects.TRAINING,
        "Weight of the diver's pixels in the mask's loss, those beside it have the rest; 0.5, as "
        "in the reference, is both alike, and few logits of a small diver pass the threshold.",
        least=0,
        most=1,
    )
    kinetics_i3d: str = key(
        "", Affects.TRAINING, "File (.pth or .safetensors) with Kinetics weights for both trunks."
    )
    imagenet_resnet34: str = key(
        "", Affects.TRAINING, "The same with ImageNet weights for the static encoder."
    )
    compilation_cache: str = key(
        "user",
        Affects.NOTHING,
        'Folder for compiled programs, so that the next start is quick; "user" is one for all runs '
        "of this user; empty: none.",
    )
    tracker: str = key(
        "none",
        Affects.NOTHING,
        "Who takes the run's numbers beside its files; each needs the extra of its name.",
        choices=("none", "wandb", "mlflow"),
    )
    log_every: int = key(10, Affects.REPORT, "Micro-batches between two logged means.", least=1)
    checkpoint_every: int = key(
        500, Affects.REPORT, "Micro-batches between checkpoints, besides evaluations.", least=1
    )
    evaluate_every: int = key(
        4, Affects.REPORT, "Epochs between evaluations; 0 is only at the end.", least=0
    )
    evaluate_every_late: int = key(
        2, Affects.REPORT, "The same from evaluate_late_from on.", least=1
    )
    evaluate_late_from: int = key(50, Affects.REPORT, "Epoch, see evaluate_every_late.", least=0)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Scoring a split."""

    exemplars: int = key(10, Affects.REPORT, "Exemplars a query.", least=1)
    video_batch: int = key(4, Affects.SPEED, "Videos encoded at once.", least=1)
    pair_batch: int = key(16, Affects.SPEED, "Pairs compared at once.", least=1)
    max_dives: int = key(
        0, Affects.REPORT, "Score only the first so many test dives; 0 is all.", least=0
    )
    resamples: int = key(
        2000, Affects.REPORT, "Resamples of the test set behind each interval.", least=100
    )
    thumbnails: bool = key(
        False,
        Affects.REPORT,
        "Show frames of the worst dives on the page. Off unless switched on: FineDiving's terms do "
        "not let frames be passed on.",
    )
    score_level: float = key(
        0.9,
        Affects.REPORT,
        "Share of dives whose score's interval shall hold the true score; intervals need "
        "data.calibration_dives.",
        least=0.5,
        most=0.99,
    )


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Sizes that only `benchmark` reads."""

    batch_size: int = key(
        1, Affects.NOTHING, "Pairs of a forward pass and of a training step.", least=1
    )
    warmup: int = key(1, Affects.NOTHING, "Runs thrown away after the first.", least=0)
    threads: int = key(0, Affects.NOTHING, "Cores; 0 is all that the process may use.", least=0)
    matmul_size: int = key(
        2048, Affects.NOTHING, "Rows of the matrices whose product gives the peak.", least=1
    )
    test_dives: int = key(
        749, Affects.NOTHING, "Queries that share the bank's encoding; FineDiving-HM's.", least=1
    )
    train_dives: int = key(2251, Affects.NOTHING, "Dives of the bank; FineDiving-HM's.", least=0)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Rendered dives; keyword arguments of `render_release`, that only `render` reads."""

    train_dives: int = key(40, Affects.NOTHING, "Dives of the training split.", least=1)
    test_dives: int = key(10, Affects.NOTHING, "Dives of the test split.", least=0)
    width: int = key(455, Affects.NOTHING, "Width of a frame, pixels.", least=32)
    height: int = key(256, Affects.NOTHING, "Height of a frame, pixels.", least=32)
    seed: int = key(0, Affects.NOTHING, "Fixes everything that is drawn.", least=0)
    frames: tuple[int, ...] = key(
        (96, 108), Affects.NOTHING, "Least and largest number of frames of a dive."
    )
    competitions: int = key(
        8, Affects.NOTHING, "How many competitions, each with its own looks and judges.", least=2
    )
    unseen_competitions: int = key(
        0,
        Affects.NOTHING,
        "How many of them hold all test dives and no training dive; 0: test dives are from all.",
        least=0,
    )
    dive_numbers: int = key(12, Affects.NOTHING, "How many dive numbers occur.", least=1)
    confounders: str = key(
        "",
        Affects.NOTHING,
        "Parts of the venue that go by a cue a dive: some of background, clothing, camera and "
        "lighting, with commas between, or all.",
    )
    confounding: float = key(
        0.0,
        Affects.NOTHING,
        "How strongly the cue tells the quality of a training dive: 0 to 1, or to -1 turned round.",
        least=-1,
        most=1,
    )
    test_confounding: float = key(
        0.0,
        Affects.NOTHING,
        "The same of a test dive; 0 is untied.",
        least=-1,
        most=1,
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """All of a config; the defaults are the reference's full size."""

    seed: int = key(0, Affects.TRAINING, "Fixes weights, order, crops and exemplars.", least=0)
    data_name: str = key(
        "FineDiving-HM", Affects.NOTHING, "What results are called wherever they are shown."
    )
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    train: Train = dataclasses.field(default_factory=Train)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    benchmark: Benchmark = dataclasses.field(default_factory=Benchmark)
    rendered: Rendered = dataclasses.field(default_factory=Rendered)


# Keys that runs of older versions may have saved; none changed what a run does.
RETIRED = ("rendered.background_bias",)
SECTIONS = (Data, Model, Train, Evaluate, Benchmark, Rendered)


def keys() -> dict[str, dataclasses.Field]:
    """Every key of a config by its dotted name, in the order of the schema."""
    found = {}
    for field in dataclasses.fields(Settings):
        if field.metadata:
            found[field.name] = field
            continue
        (section,) = [one for one in SECTIONS if one.__name__.lower() == field.name]
        found |= {f"{field.name}.{one.name}": one for one in dataclasses.fields(section)}
    return found
