"""TFDS builder of FineDiving-HM: array_record files for random access, no TensorFlow needed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import shard_utils

from finecausal_jax.data.dives import (
    DATASET_VERSION,
    FINGERPRINT_KEY,
    IMAGES_KEY,
    RELEASE,
    RESIZE_KEY,
    RESIZED,
    TABLE_KEY,
    image_features,
)
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime import progress as bars
from tfds_finecausal.annotations import FOLDERS
from tfds_finecausal.release import (
    SKIPPED,
    WARNINGS,
    Release,
    ReleaseDive,
    read_release,
    write_problems,
)
from tfds_finecausal.resized_images import ResizedImages, resized_bytes

Shard = Callable[[], Iterator[tuple[int, dict[str, Any]]]]


class Builder(tfds.core.ShardBasedBuilder):
    """Builds the release in `manual_dir`, real or rendered.

    The config `release` keeps the JPEG files' bytes. The config `resized` stores pixels: every
    frame and mask of a dive decoded and resized, not flipped and not cropped, so that training
    reads the same pixels without decoding a JPEG.

    Records keep the order of the split pickles. The table of all dives without their pixels goes
    into the data set's metadata under `dives`, and a hash of each dive's image files under
    `images`, both by split. A `ShardBasedBuilder` because it writes record by record: TFDS's
    shuffling builders spill more than 1 GB through TensorFlow's file system, and the real release
    has several.

    Attributes:
      skip_bad: leave dives with problems out and list them in `skipped.json` of the data set,
        instead of stopping with an error that lists them.
      progress: whether to show how far it is.
      fingerprint: text kept in the metadata that tells which release was built.
      folders: what the release's parts are called.
      resize: what the config `resized` resizes to, kept in its metadata.
    """

    VERSION = tfds.core.Version(DATASET_VERSION)
    RELEASE_NOTES = {
        "1.0.0": "First version.",
        "2.0.0": "Points are float64, so that equal executions are equal. Masks that the release "
        "has in colour are grey.",
    }
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=RELEASE, description="Frames and masks as released, JPEG."),
        tfds.core.BuilderConfig(
            name=RESIZED, description="Frames and masks decoded and resized for training, pixels."
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = RELEASE
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    FineDiving-HM cannot be downloaded freely. Ask its authors for it: they send an agreement to
    sign and, in return for the signed one, links. The videos and annotations are FineDiving's
    (https://github.com/xujinglin/FineDiving), the masks FineParser's
    (https://github.com/PKU-ICST-MIPL/FineParser_CVPR2024). Unpack everything into one folder, the
    manual_dir (config.data.manual_dir), so that it holds

        FineDiving/<competition>/<index>/<frame number, at least 5 digits>.jpg
        FineDiving_HM/<competition>/<index>/<the same frame numbers>.jpg
        Annotations/train_split.pkl, test_split.pkl, fine-grained_annotation_aqa.pkl,
          FineDiving_coarse_annotation.pkl, FineDiving_fine-grained_annotation.pkl and
          Sub_action_Types_Table.pkl

    Without the agreement, `python launch.py render` makes a release of this layout to try things
    on.
    """

    skip_bad = False
    progress = False
    fingerprint = ""
    folders = FOLDERS
    resize = Resize(112, 200)  # Parity: what released weights saw

    def __init__(self, *, file_format: str = "array_record", **arguments: Any):
        super().__init__(file_format=file_format, **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    **image_features(self.builder_config.name),
                    "frame_labels": tfds.features.Sequence(np.int64),
                    "frame_numbers": tfds.features.Sequence(np.int64),
                    "competition": tfds.features.Text(),
                    "index": np.int64,
                    "dive_number": tfds.features.Text(),
                    "score": _points(()),
                    "difficulty": _points(()),
                    "judge_scores": _points((None,)),
                    "sub_action_names": tfds.features.Sequence(tfds.features.Text()),
                    "transit_frames": tfds.features.Sequence(np.int64),
                }
            ),
            homepage="https://github.com/xujinglin/FineDiving",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def download_and_prepare(self, **arguments: Any) -> None:
        """Builds, as any builder of TFDS; what shows how far it is ends with it."""
        with contextlib.ExitStack() as self._until_built:
            super().download_and_prepare(**arguments)

    # TFDS would announce a download of unknown size; nothing is downloaded.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Shard]]:
        release = read_release(
            dl_manager.manual_dir,
            skip=self.skip_bad,
            progress=self.progress,
            folders=self.folders,
        )
        self._write_metadata(release)
        dives = [dive for split in release.splits.values() for dive in split]
        shown = bars.progress(len(dives), "building", "dives", show=self.progress)
        bar = self._until_built.enter_context(shown)
        resize = self.resize if self.builder_config.name == RESIZED else None
        return {name: _shards(split, bar, resize) for name, split in release.splits.items()}

    def _write_metadata(self, release: Release) -> None:
        for name, problems in ((SKIPPED, release.skipped), (WARNINGS, release.warnings)):
            if problems:
                write_problems(problems, self.data_path / name)
        self.info.metadata[TABLE_KEY] = {
            name: [dive.info.to_json() for dive in split] for name, split in release.splits.items()
        }
        self.info.metadata[IMAGES_KEY] = {
            name: [dive.images_hash for dive in split] for name, split in release.splits.items()
        }
        self.info.metadata[FINGERPRINT_KEY] = self.fingerprint
        if self.builder_config.name == RESIZED:
            self.info.metadata[RESIZE_KEY] = dataclasses.asdict(self.resize)


def _points(shape: tuple[int | None, ...]) -> tfds.features.Tensor:
    """float64 to the bit; TFDS's records would round other encodings of it to float32."""
    return tfds.features.Tensor(shape=shape, dtype=np.float64, encoding="bytes")


def _shards(
    dives: tuple[ReleaseDive, ...], bar: bars.Progress, resize: Resize | None = None
) -> list[Shard]:
    """Returns one generator a shard, as many shards as TFDS takes for that many bytes."""
    total = sum(resized_bytes(dive, resize) if resize else dive.num_bytes for dive in dives)
    count = shard_utils.ShardConfig().get_number_shards(total, len(dives))
    ends = shard_utils.get_shard_boundaries(len(dives), count)
    starts = [0, *ends[:-1]]
    return [
        functools.partial(_examples, dives, start, end, bar, resize)
        for start, end in zip(starts, ends, strict=True)
    ]


def _examples(
    dives: tuple[ReleaseDive, ...], start: int, end: int, bar: bars.Progress, resize: Resize | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in range(start, end):
        info = dives[row].info
        example = info.to_json()
        example.pop("has_masks", None)  # the table's alone
        example["judge_scores"] = np.array(info.judge_scores, np.float64)
        # Paths, not bytes: TFDS stores a file's bytes as they are, and keeps the examples of a
        # shard until it is complete. For the same reason pixels come when they are asked for.
        for kind, mode in (("frames", "RGB"), ("masks", "L")):
            stored = dives[row].stored(kind)
            example[kind] = ResizedImages(stored, mode, resize) if resize else stored
        bar.update()
        yield row, example
