"""The way a question is asked: a session holds a model and the features of the videos that were opened.

    session = HiComSession.load("hicom-tiny")
    video = session.open("cat.mp4", num_frames=32)
    print(video.ask("What does the cat do?").answer)

A video is read and encoded once; each further question costs the compressor and the LLM. Nothing here knows of HTTP
or terminals.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from ..assets import model_note
from ..hub.loading import Compile, Quantization, check_fits, check_options, load_config, load_model, load_processor
from ..hub.places import ModelPlace, find_model
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.answering_hicom import Answer, ReadVideo, encode_video, read_frames, untrained_note
from ..processors.candidate_frames_hicom import (
    CandidateFiles,
    CandidateFrames,
    candidate_request,
    encode_candidates,
    reading_of_chosen,
    scored_tiles,
)
from ..processors.chosen_chats_hicom import as_selection, as_tiles
from ..processors.frame_selection_hicom import FrameSelection, SelectionRecord
from ..processors.frame_tiles_hicom import FrameTiles, levels_of
from ..processors.processing_hicom import HiComProcessor
from ..processors.source_names_hicom import source_name
from ..processors.tiled_video_hicom import check_overview, encode_tiles, read_tiles
from .open_videos import ChoosingVideo, DetailedVideo, Video
from .video_cache import VideoCache, video_key

DEFAULT_CACHE_BYTES = 2 * 2**30  # 20 videos of 32 frames at 7B in bf16, 107 MB each


class HiComSession:
    """A model that answers questions about videos. Threads may share a session; they take turns.

    Args:
        model, processor: loaded from one folder.
        cache_bytes: bound on the features kept in memory and on what the compressor keeps of the last video (about twice its
            features), in bytes; the least recently used are dropped first. With 0 none are kept, and an open video holds its
            own features.
        cache_dir: folder where features are kept as well, so that an archive is encoded once; None for none.
        note: shown with the answers, for limits of the model; see `model_notes`.

    Raises:
        ValueError: model and processor do not fit.

    Example:
        >>> from hicom_hf.assets import example_videos
        >>> session = HiComSession.load()
        >>> session.open(example_videos()[0]).ask("Which way does the cyan moon move?").answer  # doctest: +SKIP
        'left'
    """

    def __init__(
        self,
        model: HiComForConditionalGeneration,
        processor: HiComProcessor,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        cache_dir: str | Path | None = None,
        note: str | None = None,
    ):
        check_fits(model.config, processor, model.config.name_or_path or "the model")
        self.model = model
        self.processor = processor
        self.note = note
        self.cache = VideoCache(cache_bytes, None if cache_dir is None else Path(cache_dir), model)
        self.lock = threading.RLock()  # one thread at a time runs the model
        self._compiled_thread: ThreadPoolExecutor | None = None

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        quantize: Quantization | None = None,
        attn_implementation: str | None = None,
        compile: Compile | bool = "auto",
        **options: Any,
    ) -> "HiComSession":
        """Load a model with its processor.

        Args:
            model: name of a packaged model; folder; Hub repo id, with `@revision` or without; folder of a LoRA adapter. None for
                the packaged hicom-tiny.
            device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
            dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
            device_map: as in transformers, such as "auto" for several GPUs; in place of `device`.
            quantize: "nf4" or "int8" keeps the LLM in 4 or 8 bits.
            attn_implementation: as in transformers; None lets it choose.
            compile: the decoding step: "auto" compiles it on a GPU once that pays, "on" (or True) on first use, "off" (or False)
                never. Compiled, answers in half precision may differ at near ties.
            **options: of `HiComSession`.

        Raises:
            FileNotFoundError: there is no such folder, or no weights in it.
            ImportError: a package that an option needs is not installed.
            OSError: the repo cannot be reached.
            ValueError: options, config, processor or weights do not fit together.
        """
        # Cheap checks that can fail come before the weights are loaded.
        check_options(device, device_map, quantize, attn_implementation, compile)
        place = find_model(model)
        config, processor = load_config(place), load_processor(place)
        check_fits(config, processor, place)
        loaded = load_model(
            place, device, dtype, attn_implementation, device_map=device_map, quantize=quantize, compile=compile
        )
        options.setdefault("note", model_notes(place, config))
        return cls(loaded, processor, **options)

    def open(
        self,
        video: Any,
        *,
        selection: FrameSelection | None = None,
        tiles: FrameTiles | None = None,
        **sampling: Any,
    ) -> Video:
        """Read and encode a video or an image, or take its features from the cache.

        Args:
            video: path, URL, bytes, folder of frames, array, list of PIL images, ...; see `read_video`.
            selection: each question chooses among the frames that are taken, which may then be hours of video; they are encoded
                in chunks and kept in a temporary file, or in `cache_dir`. None lets every question see all frames.
            tiles: each question chooses among overlapping squares of each frame. None pads frames to squares. With a selection,
                frames are chosen by their squares (as they are without tiles, where `score_candidates` is False); those that a
                question has chosen are read once more, as tiles.
            **sampling: sampling (a `FrameSampling`), or num_frames, fps, start, end, max_frames, max_video_tokens, short_video,
                on_decode_error; see `HiComProcessor`.

        Raises:
            TypeError: selection or tiles are no request, nor a dictionary of its fields.
            VideoReadError: it cannot be read.
            ValueError: the request contradicts itself.
        """
        selection, tiles = as_selection(selection), as_tiles(tiles)
        if tiles is not None:
            check_overview(tiles, self.processor.video_processor)
        if selection is not None:
            candidates = self._candidates(video, {**sampling, "tiles": scored_tiles(selection, tiles)})
            if tiles is None:
                return ChoosingVideo(self, candidates, selection)
            size = candidates.sampling.height, candidates.sampling.width
            levels_of(tiles, source_name(video), *size)  # too many squares are refused here, not when it is asked
            detailed = partial(self._chosen_tiles, video, tiles.of_chosen(), sampling)
            return ChoosingVideo(self, candidates, selection, detailed)
        if tiles is not None:
            tiles = tiles.of_chosen()
            key = video_key(video, {**sampling, "tiles": tiles})
            tiled = self.cache.get_tiled(key)
            if tiled is None:
                read = read_tiles(self.processor, video, tiles, **sampling)
                with self.lock:
                    tiled = encode_tiles(self.model, self.processor, read)
                self.cache.put(key, tiled)
            return DetailedVideo(self, tiled)
        key = video_key(video, sampling)
        encoded = self.cache.get(key)
        if encoded is None:
            encoded = self.encode(read_frames(self.processor, video, **sampling)).encoded
            self.cache.put(key, encoded)
        return Video(self, encoded)

    def _candidates(self, video: Any, sampling: dict[str, Any]) -> CandidateFrames:
        """Encode candidates, or take them from the folder of the cache.

        The model is held for one chunk at a time, so that other threads' questions are answered meanwhile.
        """
        sampling = candidate_request(sampling)
        read_in_chunks = sampling.get("read") or self.processor.video_processor.read_in_chunks

        def read(source: Any, consume: Callable[[Any], None], chunk_size: int, **request: Any) -> Any:
            def take(pixel_values: Any) -> None:
                with self.lock:
                    consume(pixel_values)

            return read_in_chunks(source, take, chunk_size, **request)

        def encode(files: CandidateFiles | None) -> CandidateFrames:
            return encode_candidates(self.model, self.processor, video, files=files, **{**sampling, "read": read})

        return self.cache.candidates(None if "read" in sampling else video_key(video, sampling), encode)

    def _chosen_tiles(
        self,
        video: Any,
        tiles: FrameTiles,
        sampling: dict[str, Any],
        record: SelectionRecord,
    ) -> Video:
        """Read the frames that a question has chosen again, as tiles."""
        return self.open(video, tiles=tiles, **reading_of_chosen(record, sampling))

    def encode(self, frames: ReadVideo) -> Video:
        """Encode frames that `read_frames` has read; the cache is not searched for them."""
        with self.lock:
            return Video(self, encode_video(self.model, frames))

    def generate(self, answer: Callable[[], list[Answer]]) -> list[Answer]:
        """Calls a function that lets the model generate, while no other thread runs it.

        With a compiled step, all calls run in one thread of the session's own: PyTorch keeps the CUDA graphs that it records by
        thread, and before 2.13 in one thread only (pytorch/pytorch#123177). A stream has a thread of its own for each answer.
        """
        with self.lock:
            if self.model.compile_settings is None:
                return answer()
            if self._compiled_thread is None:
                self._compiled_thread = ThreadPoolExecutor(1, "hicom-compiled")
            return self._compiled_thread.submit(copy_context().run, answer).result()


def model_notes(model: str | Path | ModelPlace, config: HiComConfig) -> str | None:
    """What readers of a model's answers should know: weights that are random, a small world; None if there is nothing.

    Args:
        model: what the model was loaded from, see `find_model`.
        config: of the model.
    """
    place = find_model(model)
    packaged = model_note(place.source) if place.adapter is None else None
    notes = [note for note in (untrained_note(config.untrained_parts), packaged) if note]
    return "; ".join(notes) or None
