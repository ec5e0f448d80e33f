"""From videos and images to the pixels that the vision tower takes: sample, pad to a square, resize, normalise.

Letters: V videos, T frames of one video, S side of the square that the tower takes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import VideosKwargs

# The name of the same class at the top level of transformers is a stand-in that fails where torchvision is absent.
from transformers.video_processing_utils import BaseVideoProcessor

from .frame_sampling_hicom import DEFAULT_NUM_FRAMES, FrameSampling
from .frame_tiles_hicom import FrameTiles, cut_frame, levels_of
from .media_access_hicom import OPEN_ACCESS, MediaAccess
from .media_bounds_hicom import DEFAULT_BOUNDS, MediaBounds
from .picture_settings_hicom import PictureSettings
from .source_names_hicom import source_name
from .square_frames_hicom import BICUBIC, PAD_VALUE, joined, pad_to_square, resize_frame
from .video_reading_hicom import OnDecodeError, SamplingRecord, check_on_decode_error, read_video
from .video_sources_hicom import is_frame_list, load_image

NUM_PIXEL_VALUES = 256

# Arguments that describe one video, so that a processor cannot have them as its own.
CALL_ONLY_ARGUMENTS = ("start", "end", "indices", "frame_rate", "media_access", "media_bounds")
# Written into the saved file by transformers, not arguments of ours.
SAVED_LABELS = {
    "auto_map",
    "feature_extractor_type",
    "image_processor_type",
    "processor_class",
    "video_processor_type",
}


class HiComVideosKwargs(VideosKwargs, total=False):
    """Names that `HiComProcessor` and `from_pretrained` hand on beside those of transformers."""

    start: float | None
    end: float | None
    max_frames: int | None
    frame_rate: float | None
    media_access: MediaAccess | None
    media_bounds: MediaBounds | None
    short_video: Literal["once", "repeat"] | None
    indices: Sequence[int] | None
    on_decode_error: OnDecodeError | None
    pad_value: int | None
    square_pixels: bool | None
    alpha_on_white: bool | None
    browser_delays: bool | None
    resample: int | Literal["exact"] | None


class HiComVideoProcessor(BaseVideoProcessor):
    """Turns videos and images into normalised square frames, without torchvision.

    All arguments are keywords, saved with the processor, and may be overridden in `from_pretrained`.

    Args:
        size: {"height": S, "width": S} in pixels; default 384 (SigLIP so400m/14/384).
        do_pad: pad frames to a square with `pad_value`, picture in the centre; False squashes them.
        pad_value: 0 to 255, default grey 127.
        square_pixels, alpha_on_white, browser_delays: see `PictureSettings`; all True by default, all False in
            checkpoints converted from the official release.
        resample: Pillow's number of the resizing filter, default 3 (bicubic), or "exact", see `resize_frame`.
        rescale_factor: from uint8 to [0, 1], default 1/255.
        image_mean, image_std: per channel, in [0, 1]; default 0.5.
        num_frames: frames per video, default 32 (paper, section 4.1); unused while `fps` is set.
        fps: frames per second of video; None (default) takes `num_frames`.
        max_frames: upper bound on the frames per video, None (default) for none.
        short_video: "once" (default) or "repeat", see `FrameSampling`.
        do_sample_frames: False takes every frame.
        on_decode_error: "raise" (default) or "keep", see `read_video`.

    Source: official release, preprocessing. Differs: it lets short frame lists end in black frames and cuts after 32.

    Example:
        >>> processor = HiComVideoProcessor(size={"height": 56, "width": 56}, num_frames=4)
        >>> features = processor(np.zeros((8, 48, 64, 3), dtype=np.uint8))
        >>> tuple(features["pixel_values_videos"].shape), features["video_num_frames"].tolist()
        ((4, 3, 56, 56), [4])
    """

    valid_kwargs = HiComVideosKwargs
    model_input_names = ["pixel_values_videos", "video_num_frames"]

    size = {"height": 384, "width": 384}
    do_pad = True
    pad_value = PAD_VALUE
    square_pixels = True
    alpha_on_white = True
    browser_delays = True
    do_resize = True
    resample = BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = DEFAULT_NUM_FRAMES
    fps = None
    max_frames = None
    short_video: Literal["once", "repeat"] = "once"
    on_decode_error: OnDecodeError = "raise"

    def __init__(self, **kwargs: Any) -> None:
        unknown = (
            set(kwargs) - set(self.valid_kwargs.__annotations__) - set(VideosKwargs.__annotations__) - SAVED_LABELS
        )
        unknown |= set(kwargs) & set(CALL_ONLY_ARGUMENTS)
        if unknown:
            raise TypeError(
                f"HiComVideoProcessor got unknown arguments {sorted(unknown)}; {', '.join(CALL_ONLY_ARGUMENTS)} belong "
                "to one video and are given when the processor is called"
            )
        super().__init__(**kwargs)
        for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name}=False is not supported: the vision tower takes resized, normalised RGB frames"
                )
        if not 0 <= self.pad_value < NUM_PIXEL_VALUES:
            raise ValueError(f"pad_value must be from 0 to 255, got {self.pad_value!r}")
        if self.resample != "exact" and self.resample not in list(Image.Resampling):
            raise ValueError(f'resample must be "exact" or one of Pillow\'s numbers 0 to 5, got {self.resample!r}')
        check_on_decode_error(self.on_decode_error)
        size: Any = self.size  # transformers makes a SizeDict of what was given
        if size is None or not size.height or not size.width:
            raise ValueError(f"size must give height and width in pixels, got {self.size!r}")
        self.frame_sampling()  # raises if the defaults contradict each other

    def preprocess(
        self,
        videos: Any,
        *,
        sampling: FrameSampling | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_frames: int | None = None,
        short_video: Literal["once", "repeat"] | None = None,
        indices: Sequence[int] | None = None,
        min_frames: int | None = None,
        on_decode_error: OnDecodeError | None = None,
        do_sample_frames: bool | None = None,
        frame_rate: float | None = None,
        media_access: MediaAccess | None = None,
        media_bounds: MediaBounds | None = None,
        return_metadata: bool = False,
        return_tensors: str | None = "pt",
        **unknown: Any,
    ) -> BatchFeature:
        """Reads, samples and normalises videos. An argument that is None takes the processor's own value.

        Args:
            videos: one source (see `read_video`) or a list of sources. A list of PIL images, 3-D arrays or paths of images is
                one video, a list of other paths is several, a list inside a list is one video given as frames.
            sampling: which frames, as one `FrameSampling`, in place of the following keywords.
            num_frames, fps, start, end, max_frames, short_video, indices, min_frames: see `FrameSampling`. Giving `fps` sets
                aside the processor's own `num_frames`, and the other way round.
            on_decode_error, frame_rate, media_access: see `read_video`.
            media_bounds: what a video may cost, `bounds` of `read_video`.
            do_sample_frames: False takes every frame (of the range, at most `max_frames`).
            return_metadata: add "video_metadata", one `SamplingRecord` per video.
            return_tensors: "pt" (also for None) or "np".

        Returns:
            `pixel_values_videos` float32 (sum of T, 3, S, S) and `video_num_frames` int64 (V,).

        Raises:
            TypeError: an unknown argument.
            ValueError: a contradicting request, or no videos.
            VideoReadError: a video cannot be read.
        """
        if unknown:
            raise TypeError(
                f"HiComVideoProcessor got unknown arguments {sorted(unknown)}; a call takes sampling, num_frames, fps, start, "
                "end, min_frames, max_frames, short_video, indices, on_decode_error, do_sample_frames, frame_rate, "
                "media_access, media_bounds, return_metadata and return_tensors, the rest is set at construction"
            )
        keywords: dict[str, Any] = {
            "num_frames": num_frames,
            "fps": fps,
            "do_sample_frames": do_sample_frames,
            "start": start,
            "end": end,
            "max_frames": max_frames,
            "short_video": short_video,
            "indices": indices,
            "min_frames": min_frames,
        }
        if sampling is None:
            sampling = self.frame_sampling(**keywords)
        elif any(value is not None for value in keywords.values()):
            raise ValueError("sampling and keywords both say which frames are taken; give one of them")
        stacks, records = [], []
        for source in _as_sources(videos):
            frames, record = self.square_frames(
                source,
                sampling,
                on_decode_error=on_decode_error,
                frame_rate=frame_rate,
                media_access=media_access,
                media_bounds=media_bounds,
            )
            stacks.append(self.normalised(torch.from_numpy(frames).movedim(-1, 1)))
            records.append(record)
        data = {
            "pixel_values_videos": joined(stacks),
            "video_num_frames": torch.tensor([len(stack) for stack in stacks]),
        }
        features = BatchFeature(_converted(data, return_tensors))
        if return_metadata:
            features["video_metadata"] = records
        return features

    def read_in_chunks(
        self,
        video: Any,
        consume: Callable[[torch.Tensor], None],
        chunk_size: int,
        *,
        sampling: FrameSampling | None = None,
        on_decode_error: OnDecodeError | None = None,
        frame_rate: float | None = None,
        media_access: MediaAccess | None = None,
        media_bounds: MediaBounds | None = None,
        tiles: FrameTiles | None = None,
        check_size: Callable[[int, int], None] | None = None,
        **request: Any,
    ) -> tuple[SamplingRecord, list[int]]:
        """Reads a video of any length and passes its frames on as they are read.

        Args:
            video: one source.
            consume: called with normalised frames, float32 (chunk_size, 3, S, S); the last chunk may be shorter. With tiles,
                which make n squares of a frame, it is called with (chunk_size // n, n, 3, S, S).
            chunk_size: see above.
            sampling: which frames, or the fields of `FrameSampling` as keywords; the processor's own are not used.
            on_decode_error, frame_rate, media_access, media_bounds: see `read_video`.
            tiles: cuts frames into squares in place of padding them.
            check_size: called with the number of frames and of the squares of each before the first frame is passed on, and
                again where the file is read again; what it raises ends the reading.

        Returns:
            The record, and for each of its frames the number of the frame that was passed on. These are consecutive numbers,
            unless frames are repeated, or the file's times turned out to be wrong and it was read again.

        Raises:
            VideoReadError: the video cannot be read.
            ValueError: a contradicting request.
        """
        chunk: list[np.ndarray] = []
        num_read = num_planned = 0

        def plan(num_frames: int) -> None:
            nonlocal num_planned
            num_planned = num_frames

        def hand_on(frame: np.ndarray) -> np.ndarray:
            nonlocal num_read, num_planned
            if tiles is None:
                chunk.append(self.square_frame(frame))
            else:
                levels = levels_of(tiles, source_name(video), *frame.shape[:2])
                chunk.append(cut_frame(frame, levels, self.square_frame))
            if num_planned and check_size is not None:  # all frames have the size of the first one
                check_size(num_planned, 1 if tiles is None else len(chunk[-1]))
                num_planned = 0
            if len(chunk) == max(1, chunk_size // (1 if tiles is None else len(chunk[0]))):
                hand_on_chunk()
            num_read += 1
            return np.array(num_read - 1)

        def hand_on_chunk() -> None:
            consume(self.normalised(torch.from_numpy(np.stack(chunk)).movedim(-1, -3)))
            chunk.clear()

        rows, record = read_video(
            video,
            FrameSampling(**request) if sampling is None else sampling,
            on_decode_error=on_decode_error or self.on_decode_error,
            frame_rate=frame_rate,
            transform=hand_on,
            settings=self._picture_settings(),
            media_access=media_access or OPEN_ACCESS,
            bounds=media_bounds or DEFAULT_BOUNDS,
            on_chosen=plan,
        )
        if chunk:
            hand_on_chunk()
        return record, rows.tolist()

    def preprocess_images(
        self,
        images: Any,
        return_tensors: str | None = "pt",
        media_access: MediaAccess | None = None,
        media_bounds: MediaBounds | None = None,
    ) -> BatchFeature:
        """Pads, resizes and normalises images as if each were one frame.

        Args:
            images: one image or a list: path, URL, bytes, file object, PIL image, or uint8 array or tensor
                (height, width, 3) or (3, height, width); a 4-D array or tensor is a list of images.
            return_tensors: "pt" (also for None) or "np".
            media_access, media_bounds: as for videos.

        Returns:
            `pixel_values` float32 (n, 3, S, S).

        Raises:
            ValueError: no images.
            VideoReadError: an image cannot be read.
        """
        frames = self.square_images(images, media_access, media_bounds)
        data = {"pixel_values": self.normalised(torch.from_numpy(frames).movedim(-1, 1))}
        return BatchFeature(_converted(data, return_tensors))

    def square_frames(
        self,
        source: Any,
        sampling: FrameSampling,
        *,
        on_decode_error: OnDecodeError | None = None,
        frame_rate: float | None = None,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
        media_access: MediaAccess | None = None,
        media_bounds: MediaBounds | None = None,
    ) -> tuple[np.ndarray, Any]:
        """The frames of one video before they are normalised.

        Args:
            source, on_decode_error, frame_rate, media_access: see `read_video`.
            media_bounds: its `bounds`.
            sampling: which frames.
            transform: what becomes of each frame, in place of `square_frame`.

        Returns:
            uint8 (T, S, S, 3), and the `SamplingRecord` that says which frames they were.

        Raises:
            VideoReadError: the video cannot be read.
        """
        return read_video(
            source,
            sampling,
            on_decode_error=on_decode_error or self.on_decode_error,
            frame_rate=frame_rate,
            transform=transform or self.square_frame,
            bounds=media_bounds or DEFAULT_BOUNDS,
            settings=self._picture_settings(),
            media_access=media_access or OPEN_ACCESS,
        )

    def square_images(
        self, images: Any, media_access: MediaAccess | None = None, media_bounds: MediaBounds | None = None
    ) -> np.ndarray:
        """Images before they are normalised, uint8 (n, S, S, 3); arguments and errors as for `preprocess_images`."""
        is_batch = isinstance(images, (list, tuple)) or getattr(images, "ndim", 3) == 4
        images = list(images) if is_batch else [images]
        if not images:
            raise ValueError("images is an empty list; pass at least one image")
        reading = (None, media_access or OPEN_ACCESS, media_bounds or DEFAULT_BOUNDS, self._picture_settings())
        return np.stack([self.square_frame(load_image(image, *reading)) for image in images])

    def _picture_settings(self) -> PictureSettings:
        return PictureSettings(self.square_pixels, self.alpha_on_white, self.browser_delays)

    def square_frame(self, frame: np.ndarray) -> np.ndarray:
        """Pads a frame to a square (if `do_pad`) and resizes it; uint8 (height, width, 3) to (S, S, 3)."""
        if self.do_pad:
            frame = pad_to_square(frame, self.pad_value)
        return resize_frame(frame, self.size["height"], self.size["width"], self.resample)

    def normalised(self, frames: torch.Tensor) -> torch.Tensor:
        """Pixels as the vision tower takes them, the same values on every device.

        Args:
            frames: uint8 (T, 3, S, S) or (T, n, 3, S, S), of any memory layout and on any device.

        Returns:
            float32 of the same shape, contiguous, on the same device.
        """
        pixels = torch.empty(frames.shape, dtype=torch.float32, device=frames.device)
        scale = torch.tensor(1 / self.rescale_factor, device=frames.device)
        mean = torch.tensor(self.image_mean, device=frames.device).view(3, 1, 1)
        std = torch.tensor(self.image_std, device=frames.device).view(3, 1, 1)
        at_a_time = 1 if frames.device.type == "cpu" else max(len(frames), 1)  # one frame stays in a CPU's cache
        for target, some in zip(pixels.split(at_a_time), frames.split(at_a_time), strict=True):
            # Division, as a product by 1/255 in float32 would round some values differently than the official release. By
            # a tensor, as CUDA multiplies by 1/255 where the divisor is a number.
            target.copy_(some).div_(scale).sub_(mean).div_(std)
        return pixels

    def frame_sampling(
        self,
        *,
        num_frames: int | Literal["all"] | None = None,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        start: float | None = None,
        end: float | None = None,
        max_frames: int | None = None,
        short_video: Literal["once", "repeat"] | None = None,
        indices: Sequence[int] | None = None,
        min_frames: int | None = None,
    ) -> FrameSampling:
        """The request of a call with these keywords; None takes the processor's own value, see `preprocess`.

        Raises:
            ValueError: the request contradicts itself.
        """
        if indices is not None:
            return FrameSampling(
                num_frames, fps, start, end, max_frames, short_video or "once", tuple(indices), min_frames
            )
        if num_frames is None and fps is None:
            num_frames, fps = (self.num_frames, None) if self.fps is None else (None, self.fps)
            if not (self.do_sample_frames if do_sample_frames is None else do_sample_frames):
                num_frames, fps = "all", None
        elif do_sample_frames is False:
            raise ValueError(
                f"do_sample_frames=False takes every frame and contradicts num_frames={num_frames!r}, fps={fps!r}; "
                "leave one of them out"
            )
        return FrameSampling(
            num_frames=num_frames,
            fps=fps,
            start=start,
            end=end,
            max_frames=self.max_frames if max_frames is None else max_frames,
            short_video=short_video or self.short_video,
            min_frames=min_frames,
        )


def _as_sources(videos: Any) -> list[Any]:
    """One source or a list of sources as a list of sources."""
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return list(videos)
    if not isinstance(videos, (list, tuple)):
        return [videos]
    if not videos:
        raise ValueError("videos is an empty list; pass at least one video")
    return [videos] if is_frame_list(videos) else list(videos)


def _converted(data: dict[str, torch.Tensor], return_tensors: str | None) -> dict[str, Any]:
    if return_tensors in (None, "pt"):
        return data
    if return_tensors == "np":
        return {name: tensor.numpy() for name, tensor in data.items()}
    raise ValueError(f'return_tensors must be "pt" or "np", got {return_tensors!r}')
