"""A cache of frozen SigLIP features on disk: written once, read by every epoch, run and ablation with the same tower.

```
FOLDER/<fingerprint of tower and preprocessing>/
    about.json                     the settings behind the fingerprint
    features-<unique>.safetensors  <key of a video>.features, <key>.aligned_features (T, H, W, D); a shard is whole or not there
```
Of a video that is seen as tiles there are <key>.tiles, the description of `tiles_as_tensors` as JSON, and <key>.<its tensors>.
Letters: T frames, H/W patch rows and columns, D vision width, S image side in pixels.
"""

import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ..hub.files import atomic_file, remove_leftovers, settings_fingerprint, write_text
from ..hub.progress import Progress, no_progress
from ..inference.tiled_file import NAMES, tiles_as_tensors, tiles_of_tensors
from ..modeling.vision_hicom import tower_fingerprint
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.tiled_video_hicom import TiledVideo, encode_tiles
from .bad_samples import MISSING_MEDIA, UNREADABLE_MEDIA, SampleError, raise_or_skip
from .media_reader import MediaReader, is_missing, media_name
from .record_media import URL, Medium

if TYPE_CHECKING:
    from ..modeling.modeling_hicom import HiComForConditionalGeneration

FORMAT_VERSION = 2  # part of the fingerprint; 2: frames are resized by torch
SHARD_SIZE = 2**29  # bytes; what an interruption loses at most
SPARE_SPACE = 2**28  # bytes left on the disk
GIB = 2**30
FEATURES = ("features", "aligned_features")
TILES = "tiles"  # the description of the tiles of a video, among its tensors


class FeatureCache:
    """SigLIP's features of videos and images, kept on disk.

    A cache belongs to the weights of the tower and to the preprocessing, including frame sampling. Other weights or
    preprocessing use another cache, in its own folder below the same one. It is safe to write from several processes at a
    time, and an interrupted one resumes.

    Args:
        folder: where all caches lie.
        model: a `HiComForConditionalGeneration` whose vision tower is frozen, pooling head included; it is not kept.
        reader: a `MediaReader`, which says which frames are taken: that of the encoder that uses the cache.
        dtype: of what is stored; None keeps what the tower computes, so that results are those without a cache.
        autocast_dtype: under which the trainer runs the tower, None for none.

    Raises:
        ValueError: the vision tower is trainable.

    Example:
        >>> encoder = ItemEncoder(processor, FrameSampling(num_frames=32))  # doctest: +SKIP
        >>> dataset = HiComDataset("train.json", encoder)  # doctest: +SKIP
        >>> encoder.feature_cache = FeatureCache("cache", model, encoder.reader)  # doctest: +SKIP
        >>> encoder.feature_cache.fill(model, dataset.media())  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        model: "HiComForConditionalGeneration",
        reader: MediaReader,
        *,
        dtype: torch.dtype | None = None,
        autocast_dtype: torch.dtype | None = None,
    ):
        tower = _frozen_tower(model)
        self.reader = reader
        self.aligned = model.config.compressor_config.uses_aligned_features
        self.dtype, self.autocast_dtype = dtype, autocast_dtype
        item_size = (dtype or tower.dtype).itemsize
        self._frame_size = int(np.prod(model.config.grid)) * tower.config.hidden_size * (1 + self.aligned) * item_size
        self._tower_fingerprint = tower_fingerprint(tower)
        about = {
            "format": FORMAT_VERSION,
            "tower": self._tower_fingerprint,
            "tower_dtype": str(tower.dtype),
            "aligned": self.aligned,
            "dtype": str(dtype),
            "autocast_dtype": str(autocast_dtype),
            **reader.settings,
        }
        self.fingerprint = settings_fingerprint(about)
        self.folder = Path(folder) / self.fingerprint
        self._about = about
        self._shards: dict[str, Path] = {}  # key of a medium -> file
        self._scanned: set[Path] = set()
        self._open_shards: dict[Path, Any] = {}

    # Reading -----------------------------------------------------------------------------------------------------------

    def get(self, medium: Medium) -> dict[str, torch.Tensor] | TiledVideo:
        """Features of a video or image, see `HiComVideoFeatures`, or its tiles, of which a question chooses.

        Raises:
            SampleError: there are none.
        """
        if is_missing(medium):
            raise SampleError(media_name(medium), MISSING_MEDIA, "there is no such file or folder; check the path")
        key = medium_key(medium)
        if key not in self._shards:
            self.refresh()
        if key not in self._shards:
            raise SampleError(
                media_name(medium),
                UNREADABLE_MEDIA,
                f"it has no features in the cache {self.folder}: fill the cache, or see its log if it could not be read",
            )
        shard = self._opened(self._shards[key])
        if self.reader.tiles_of(medium) is not None:
            return _stored_tiles(shard, key)
        features = {"features": shard.get_tensor(f"{key}.features")}
        if self.aligned:
            features["aligned_features"] = shard.get_tensor(f"{key}.aligned_features")
        features["num_frames"] = torch.tensor([len(features["features"])])
        return features

    def _opened(self, path: Path):
        """A shard, opened once per process: its table of contents is long."""
        if path not in self._open_shards:
            self._open_shards[path] = safe_open(path, framework="pt").__enter__()
        return self._open_shards[path]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open_shards": {}}  # each process opens its own

    def __contains__(self, medium: Medium) -> bool:
        return medium_key(medium) in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    def refresh(self) -> None:
        """List the shards again; other processes may have written some."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._scanned:
                continue
            with safe_open(path, framework="pt") as shard:
                self._shards.update({name.partition(".")[0]: path for name in shard.keys()})  # noqa: SIM118
            self._scanned.add(path)

    # Writing -----------------------------------------------------------------------------------------------------------

    def num_bytes(self, media: Iterable[Medium]) -> int:
        """Bytes that the features of media take; videos shorter than asked for take less, and as tiles wide frames more.

        Raises:
            ValueError: with `fps` alone, the number of frames is not known beforehand, unless the records give it.
        """
        total = 0
        for medium in media:
            count = self.reader.most_frames(medium)
            if count is None:
                raise ValueError("the size of a cache is not known with fps and without max_frames; give max_frames")
            tiles = self.reader.tiles_of(medium)
            # Tiles have both kinds of features: aligned ones score, also where the compressor does not read them.
            total += count * (1 if tiles is None else _least_squares(tiles) * 2 // (1 + self.aligned))
        return total * self._frame_size

    def fill(
        self,
        model: "HiComForConditionalGeneration",
        media: Iterable[Medium],
        *,
        on_bad_sample: Literal["raise", "skip"] = "raise",
        rank: int = 0,
        world_size: int = 1,
        shard_size: int = SHARD_SIZE,
        report: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> list[SampleError]:
        """Encode and store what is not there yet.

        With several processes, each encodes a part; after a barrier, `get` finds those of the others.

        Args:
            model: the model that the cache was made for, on the device that computes.
            media: for example `HiComDataset.media()`.
            on_bad_sample: "raise", or "skip" what cannot be read; reading it from the cache is an error or skip then, too.
            rank, world_size: this process and how many there are.
            shard_size: bytes; what an interruption loses at most.
            report: takes the line about the size; default: stderr, from the first process only.
            progress: shows progress over an iterable, given its length and a name.

        Returns:
            What was skipped.

        Raises:
            ValueError: the tower is trainable, or not the one that the cache is for.
            OSError: the disk has too little space, before anything is encoded.
            SampleError: a video cannot be read.
        """
        tower = _frozen_tower(model)
        if tower_fingerprint(tower) != self._tower_fingerprint:
            raise ValueError("the vision tower of this model has other weights than that which the cache was made for")
        self.refresh()
        missing = list({key: medium for medium in media if (key := medium_key(medium)) not in self._shards}.values())
        self._check_space(missing, report or (_to_stderr if rank == 0 else lambda line: None))
        if not missing:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        write_text(self.folder / "about.json", json.dumps(self._about, indent=2))
        share = missing[rank::world_size]
        skipped = []
        progress = progress or no_progress
        self._store(self._encoded(model, progress(share, len(share), "features"), on_bad_sample, skipped), shard_size)
        self.refresh()
        return skipped

    def _check_space(self, missing: list[Medium], report: Callable[[str], None]):
        needed = self.num_bytes(missing)
        existing = next(parent for parent in (self.folder, *self.folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        at_least = "at least " if any(map(self.reader.tiles_of, missing)) else ""
        report(
            f"feature cache {self.folder}: {len(self._shards)} videos and images are there, {len(missing)} to encode take "
            f"{at_least}{needed / GIB:.2f} GiB; {free / GIB:.2f} GiB are free"
        )
        if missing and needed + SPARE_SPACE > free:
            raise OSError(
                f"the feature cache in {self.folder} needs {needed / GIB:.2f} GiB and {SPARE_SPACE / GIB:.2f} GiB to spare, "
                f"but {existing} has {free / GIB:.2f} GiB free; free some, choose another folder, or train without the cache"
            )

    def _encoded(
        self, model, media: Iterable[Medium], on_bad_sample: str, skipped: list[SampleError]
    ) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """Names and tensors for the shards, medium by medium."""
        tower = _vision_tower(model)
        was_training = tower.training
        tower.eval()
        try:
            for medium in media:
                is_tiled = self.reader.tiles_of(medium) is not None
                try:
                    content: Any = self.reader.squares(medium) if is_tiled else self.reader.pixels(medium)
                except SampleError as error:
                    raise_or_skip(error, on_bad_sample)
                    skipped.append(error)
                    continue
                autocast = nullcontext()
                if self.autocast_dtype is not None:
                    autocast = torch.autocast(tower.device.type, dtype=self.autocast_dtype)
                with torch.no_grad(), autocast:
                    if is_tiled:
                        tensors = _tensors_of_tiles(encode_tiles(model, self.reader, content))
                    else:
                        features = model.encode_videos(content, torch.tensor([len(content)]))
                        tensors = {name: features[name] for name in FEATURES if features.get(name) is not None}
                yield medium_key(medium), {name: self._stored(name, tensor) for name, tensor in tensors.items()}
        finally:
            tower.train(was_training)

    def _stored(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as the disk keeps it: features in the type of the cache, numbers and masks as they are."""
        return tensor.to("cpu", self.dtype if name.rpartition(".")[2] in FEATURES else None).contiguous()

    def _store(self, encoded: Iterator[tuple[str, dict[str, torch.Tensor]]], shard_size: int):
        tensors, size = {}, 0
        try:
            for key, parts in encoded:
                tensors.update({f"{key}.{name}": tensor for name, tensor in parts.items()})
                size += sum(tensor.nbytes for tensor in parts.values())
                if size >= shard_size:
                    self._write_shard(tensors)
                    tensors, size = {}, 0
        finally:  # also what was encoded before an error
            if tensors:
                self._write_shard(tensors)

    def _write_shard(self, tensors: dict[str, torch.Tensor]):
        with atomic_file(self.folder / f"features-{uuid.uuid4().hex}.safetensors") as path:
            save_file(tensors, path)


def medium_key(medium: Medium) -> str:
    """What identifies a video or image in a cache.

    A file is identified by its path, size and time of change, so a file that was replaced is encoded again. Contents in
    memory are identified by a digest. A video without `num_frames` of its own keeps its pre-`num_frames` key, so existing
    caches stay valid.
    """
    identity = [medium.kind, medium.start, medium.end, medium.frame_rate, _identity(medium.source)]
    if medium.num_frames is not None:
        identity.append(medium.num_frames)
    identity += [
        [name, value] for name in ("fps", "max_frames", "indices") if (value := getattr(medium, name)) is not None
    ]
    if medium.tiles is not None:
        identity.append(["tiles", asdict(medium.tiles.of_chosen())])
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _least_squares(tiles: FrameTiles) -> int:
    """Squares' worth of patches of a square frame, all zooms together; other frames have more."""
    return sum(zoom * zoom for zoom in tiles.zooms)


def _tensors_of_tiles(video: TiledVideo) -> dict[str, torch.Tensor]:
    tensors, described = tiles_as_tensors(video)
    return {TILES: torch.frombuffer(bytearray(json.dumps(described).encode()), dtype=torch.uint8), **tensors}


def _stored_tiles(shard: Any, key: str) -> TiledVideo:
    described = json.loads(bytes(shard.get_tensor(f"{key}.{TILES}").numpy()))
    names = [f"{level['zoom']}.{name}" for level in described["levels"] for name in NAMES]
    return tiles_of_tensors({name: shard.get_tensor(f"{key}.{name}") for name in names}, described)


def _identity(source: Any) -> list:
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if URL.match(path):
            return ["url", path]
        if os.path.isdir(path):
            files = sorted((entry.name, *_stamp(entry.path)) for entry in os.scandir(path))
            return ["folder", os.path.abspath(path), files]
        return ["file", os.path.abspath(path), *(_stamp(path) if os.path.exists(path) else ())]
    if isinstance(source, (list, tuple)):
        return ["frames", [_identity(frame) for frame in source]]
    if isinstance(source, Image.Image):
        return ["picture", source.mode, source.size, _digest(source.tobytes())]
    if isinstance(source, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(source)
        return ["array", array.shape, str(array.dtype), _digest(array.tobytes())]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return ["bytes", _digest(bytes(source))]
    raise ValueError(
        f"a feature cache cannot distinguish one {type(source).__name__} from another; pass paths or bytes"
    )


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _vision_tower(model):
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # peft
    return model.model.vision_tower


def _frozen_tower(model):
    """The vision tower of a model.

    Raises:
        ValueError: a part of it is trainable.
    """
    tower = _vision_tower(model)
    trainable = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    if trainable:
        raise ValueError(
            f"a feature cache needs a frozen vision tower, but {len(trainable)} of its parameters are trainable "
            f"({trainable[0]}, ...); freeze it (model.model.vision_tower.requires_grad_(False)) or train without the cache"
        )
    return tower


def _to_stderr(line: str):
    print(line, file=sys.stderr)
