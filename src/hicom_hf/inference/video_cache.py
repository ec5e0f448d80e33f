"""Features of encoded videos, kept in memory up to a number of bytes, and in a folder if one is given."""

import hashlib
import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..hub.files import atomic_file, file_fingerprint, settings_fingerprint
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.outputs_hicom import HiComVideoFeatures
from ..modeling.vision_hicom import tower_fingerprint
from ..processors.answering_hicom import EncodedVideo
from ..processors.candidate_frames_hicom import CandidateFiles, CandidateFrames
from ..processors.tiled_video_hicom import TiledVideo
from .candidate_cache import encode_into, read_from, sampling_from_dict
from .tiled_file import tiles_as_tensors, tiles_of_tensors

FORMAT = 1  # version of the files; raised when their content changes


class VideoCache:
    """Encoded videos by key, least recently used first to go; may be shared by threads.

    Args:
        max_bytes: of the features in memory, and of what the model keeps of the last video; 0 keeps none.
        folder: keeps features on disk as well, without a bound; None for none.
        model: whose features they are. On disk, features of another vision tower are not taken, nor candidates of another
            adapter of the keys.
    """

    def __init__(self, max_bytes: int, folder: Path | None, model: HiComForConditionalGeneration):
        if max_bytes < 0:
            raise ValueError(f"cache_bytes must be 0 or above, got {max_bytes}")
        self.max_bytes = max_bytes
        self.folder = folder
        self.device = model.device
        self._feature_bytes = 0
        self._kept_video = model.model.kept_video
        self._kept_video.count_in(self)
        self.hits = self.misses = 0
        self._videos: OrderedDict[str, EncodedVideo | TiledVideo] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[str, Any] = (
            WeakValueDictionary()
        )  # locks, by the folder that is being written
        self._model = self._keys = None
        if folder is not None:
            self._model = tower_fingerprint(model.model.vision_tower)[:16]
            adapter = model.scoring_parts().get("key_adapter")
            self._keys = None if adapter is None else tower_fingerprint(adapter)[:16]

    @property
    def num_bytes(self) -> int:
        """Of the features in memory, and of what the model keeps of the last video."""
        return self._feature_bytes + self._kept_video.num_bytes

    def make_room(self, needed: int) -> bool:
        """Whether the model may keep so much of the video that was asked last; other videos are dropped for it."""
        with self._lock:
            newest = next(reversed(self._videos.values()), None)
            if needed + (0 if newest is None else num_bytes(newest)) > self.max_bytes:
                return False
            while self._feature_bytes + needed > self.max_bytes:
                self._drop_oldest()
            return True

    def get(self, key: str | None) -> EncodedVideo | None:
        """The video of a key, from memory or disk; None if there is none, or no key."""
        video = self._find(key)
        assert not isinstance(video, TiledVideo)  # a request for tiles has another key
        return video

    def get_tiled(self, key: str | None) -> TiledVideo | None:
        """The tiles of a key whose sampling names `tiles`, likewise."""
        video = self._find(key)
        assert not isinstance(video, EncodedVideo)
        return video

    def _find(self, key: str | None) -> EncodedVideo | TiledVideo | None:
        if key is None:
            return None
        with self._lock:
            video = self._videos.get(key)
            if video is not None:
                self._videos.move_to_end(key)
                self.hits += 1
                return video
        video = self._read(key)
        with self._lock:
            self.hits += video is not None
            self.misses += video is None
            if video is not None:
                self._keep(key, video)
        return video

    def put(self, key: str | None, video: EncodedVideo | TiledVideo) -> None:
        """Keep a video or its tiles; nothing happens without a key."""
        if key is None:
            return
        with self._lock:
            self._keep(key, video)
        path = self._path(key)
        if path is not None and not path.exists():
            self._write(path, video)

    def candidates(
        self,
        key: str | None,
        encode: Callable[[CandidateFiles | None], CandidateFrames],
        dtype: torch.dtype | None = None,
    ) -> CandidateFrames:
        """The candidates of a key from the folder, or encoded into it; threads that ask for the same ones wait for the first.

        Args:
            key: of `video_key`, or None.
            encode: encodes them into the files that it is given; into temporary files where there is no folder or no key.
            dtype: of the features of frames in the folder; None for the model's.
        """
        if key is None or self.folder is None:
            return encode(None)
        # Keys for scoring are kept as well, which an adapter of the local branch may have changed.
        parts = [key, self._model, self._keys, "candidates"]
        folder = self.folder / "-".join(part for part in parts if part is not None)
        with self._lock:
            turn = self._turns.setdefault(folder.name, threading.Lock())
        with turn:
            found = read_from(folder)
            with self._lock:
                self.hits += found is not None
                self.misses += found is None
            if found is None:
                with suppress(FileExistsError):  # another process was faster
                    return encode_into(folder, encode, dtype)
                found = read_from(folder)
        assert found is not None  # it has the other process's version, which is this one
        return found

    def clear(self) -> None:
        """Forget what is in memory."""
        with self._lock:
            self._videos.clear()
            self._feature_bytes = 0
            self._kept_video.drop()

    def _keep(self, key: str, video: EncodedVideo | TiledVideo) -> None:
        size = num_bytes(video)
        if key in self._videos or size > self.max_bytes:
            return
        self._videos[key] = video
        self._feature_bytes += size
        if self.num_bytes > self.max_bytes:  # computed again in less time than any features
            self._kept_video.drop()
        while self._feature_bytes > self.max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._videos.popitem(last=False)
        self._feature_bytes -= num_bytes(oldest)

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}-{self._model}.safetensors"

    def _write(self, path: Path, video: EncodedVideo | TiledVideo) -> None:
        if isinstance(video, TiledVideo):
            kind, (tensors, described) = "tiles", tiles_as_tensors(video)
        else:
            kind = "video"
            tensors = {name: value for name, value in video.features.items() if value is not None}
            described = {
                "sampling": video.sampling.to_dict(),
                "num_frames": video.num_frames,
                "num_patches": video.num_patches,
                "num_visual_tokens": video.num_visual_tokens,
            }
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        with atomic_file(path) as written:
            save_file(tensors, written, metadata={"format": str(FORMAT), kind: json.dumps(described)})

    def _read(self, key: str) -> EncodedVideo | TiledVideo | None:
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                metadata = file.metadata() or {}
                # Copied: products of a tensor that begins at an odd place in memory may be rounded otherwise.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118, safe_open is no mapping
        except SafetensorError as error:
            raise ValueError(f"{path}: this file of features is damaged ({error}); delete it") from error
        if metadata.get("format") != str(FORMAT):
            return None
        if "tiles" in metadata:
            return tiles_of_tensors(tensors, json.loads(metadata["tiles"]))
        described = json.loads(metadata["video"])
        sampling = sampling_from_dict(described.pop("sampling"))
        assert sampling is not None  # of a video
        return EncodedVideo(HiComVideoFeatures(**tensors), sampling, seconds=0.0, **described)


def num_bytes(video: EncodedVideo | TiledVideo) -> int:
    """Bytes of a video's features."""
    if isinstance(video, TiledVideo):
        return video.num_bytes
    return sum(value.nbytes for value in video.features.values() if value is not None)


def video_key(video: Any, sampling: dict[str, Any]) -> str | None:
    """What a video's features depend on, as a short text: its content and which frames are taken.

    Args:
        video: as for `HiComSession.open`.
        sampling: likewise, with `tiles` if there are any.

    Returns:
        None for what has no content that could be compared before it is read: a URL, a stream, a folder, frames in memory.
    """
    if isinstance(video, (bytes, bytearray, memoryview)):
        content = hashlib.sha256(video).hexdigest()
    elif isinstance(video, (str, os.PathLike)) and os.path.isfile(video):
        content = file_fingerprint(video)
    elif isinstance(video, io.BytesIO):
        content = hashlib.sha256(video.getbuffer()).hexdigest()
    else:
        return None
    allowed = {"media_access"}  # what may be opened changes no features
    request = {name: _plain(value) for name, value in sampling.items() if value is not None and name not in allowed}
    return settings_fingerprint({"content": content, "sampling": request})


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{field.name: asdict(value)[field.name] for field in fields(value)}}
    return value if isinstance(value, (str, int, float, bool)) else repr(value)
