"""Hours of video for many questions: candidates are encoded in chunks and kept in a file, each question chooses among them.

Memory holds one chunk of frames and one of features, however long the video is. Letters: T candidates, H/W patch grid, D vision
width, S image side.
"""

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from time import perf_counter
from typing import Any, NamedTuple

import torch

from .answering_hicom import EncodedVideo, own_instructions
from .frame_sampling_hicom import FrameSampling
from .frame_selection_hicom import (
    FrameSelection,
    SelectionRecord,
    choose_frames,
    question_parts,
)
from .frame_shots_hicom import find_shots
from .frame_tiles_hicom import FrameTiles

# Where the request names no number: candidates per second of video, and how many there are at least. The latter is twice the
# frames of the paper, so that a short clip is not seen at fewer frames than without a selection.
CANDIDATE_FPS, MIN_CANDIDATES = 1.0, 64
NOT_OF_CANDIDATES = {
    "max_video_tokens": "give it to the selection, as the budget of each question",
    "do_sample_frames": 'num_frames="all" makes all frames candidates',
}
FRAMES_PER_READ = 256  # candidates whose keys are in memory together while frames are scored, at most
PATCHES_PER_READ = FRAMES_PER_READ * 27 * 27  # and their patches, where frames are scored as squares
HOW_IT_IS_READ = ("on_decode_error", "frame_rate", "media_access", "media_bounds")  # not which frames


class FeatureFile:
    """Rows of equal tensors in a file; threads may read it at a time.

    Args:
        dtype: in which they are kept; None for that of the first rows.
        folder: where a temporary file lies, which ends with this object; None for the system's folder of temporary files.
        path: a file that stays, in place of a temporary one; written anew unless `shape` is given.
        shape: of a row in a file that is there already.
        num_rows, first: of that file, see `described`.

    Raises:
        ValueError: the file is shorter than that.
    """

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        folder: str | None = None,
        *,
        path: Any = None,
        shape: Sequence[int] | None = None,
        num_rows: int = 0,
        first: int = 0,
    ):
        self.dtype = dtype
        self.shape: tuple[int, ...] = tuple(shape or ())
        self.num_rows = num_rows
        self._first = first
        self._position = threading.Lock()  # of the file, between going to a place and reading there
        self._file: Any
        self._folder = (folder or tempfile.gettempdir()) if path is None else os.path.dirname(path)
        if path is None:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as its owner
        else:
            self._file = open(path, "rb" if shape else "w+b")  # noqa: SIM115, likewise
        if shape and self._file.seek(0, 2) < (first + num_rows) * self.row_bytes:
            self._file.close()
            raise ValueError(f"{path} is shorter than {num_rows} rows behind the first {first}")
        weakref.finalize(self, self._file.close)

    @property
    def row_bytes(self) -> int:
        return 0 if self.dtype is None else torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Of all rows."""
        return self.num_rows * self.row_bytes

    def append(self, rows: torch.Tensor) -> None:
        """Add rows (n, ...) behind the others.

        Raises:
            OSError: there is no room; names the folder.
        """
        self.dtype = self.dtype or rows.dtype
        self.shape = tuple(rows.shape[1:])
        self._file.seek((self._first + self.num_rows) * self.row_bytes)
        try:
            self._file.write(rows.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self._folder}: the features of candidate frames, {self.row_bytes} bytes and more for each, cannot be written "
                f"({error.strerror}); take fewer candidates, or another folder (environment variable TMPDIR, or a cache_dir)",
            ) from error
        self.num_rows += len(rows)

    def read(self, start: int, stop: int, into: bytearray | None = None) -> torch.Tensor:
        """Rows from `start` to before `stop`; `into` takes their bytes and is shared with the result.

        Raises:
            OSError: the file has become shorter.
        """
        size = (stop - start) * self.row_bytes
        content = bytearray(size) if into is None else into
        with self._position:
            self._file.seek((self._first + start) * self.row_bytes)
            num_read = self._file.readinto(memoryview(content)[:size])
        if num_read < size:
            raise OSError(
                f"{self._folder}: a file of features has become shorter while it was in use; open the video again"
            )
        assert self.dtype is not None  # the type of the rows that were written
        count = size // self.dtype.itemsize
        return torch.frombuffer(content, dtype=self.dtype, count=count).view(stop - start, *self.shape)

    def chunks(self, size: int) -> Iterator[torch.Tensor]:
        """All rows, `size` at a time; each chunk is valid until the next one."""
        buffer = bytearray(min(size, self.num_rows) * self.row_bytes)
        for start in range(0, self.num_rows, size):
            yield self.read(start, min(start + size, self.num_rows), buffer)

    def described(self) -> dict[str, Any]:
        """The arguments that open the file again."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(self.shape), "num_rows": self.num_rows, "first": self._first}

    def close(self) -> None:
        """Write what is still in memory; nothing can be read any more."""
        self._file.close()

    def forget(self, num_rows: int) -> None:
        """Leave out the first rows; those behind them are numbered from 0."""
        self._first += num_rows
        self.num_rows -= num_rows

    def take(self, rows: Sequence[int]) -> torch.Tensor:
        """Rows by their number."""
        return torch.cat([self.read(row, row + 1) for row in rows])


class CandidateFiles(NamedTuple):
    """What is kept of the frames of a video, a row for each.

    Attributes:
        features, aligned_features: of the frames that a question will choose, (H, W, D) each; empty rows for frames as squares.
        keys, scales: of the patches as they are scored, int8 (H, W, D) and float32 (H, W); see `int8_rows`. For frames as n
            squares (n, H, W, D) and (n, H, W).
    """

    features: FeatureFile
    aligned_features: FeatureFile
    keys: FeatureFile
    scales: FeatureFile

    @classmethod
    def temporary(cls, dtype: torch.dtype | None = None, folder: str | None = None) -> "CandidateFiles":
        """New files that end with the result; `dtype` and `folder` as for `encode_candidates`."""
        features, aligned_features = FeatureFile(dtype, folder), FeatureFile(dtype, folder)
        return cls(features, aligned_features, FeatureFile(torch.int8, folder), FeatureFile(torch.float32, folder))

    def append(self, model: Any, pixel_values: torch.Tensor, last: list[torch.Tensor]) -> list[float]:
        """Encode frames (T, 3, S, S), or (T, n, 3, S, S) as n squares each, and keep them.

        Of squares only what scores them is kept: frames that a question chooses are read again, as their mean colour and their
        places in the whole frame are part of their features. A single square is the frame, as it is without tiles.

        Args:
            last: features of the frame before, (1, H, W, D), or nothing; then those of the last of these frames.

        Returns:
            How much each frame differs from the one before it.
        """
        if pixel_values.ndim == 5 and pixel_values.shape[1] == 1:
            pixel_values = pixel_values[:, 0]
        features, aligned_features = model.encode_frames(pixel_values.flatten(0, -4))
        keys = model.frame_keys(aligned_features)
        if pixel_values.ndim == 5:
            counts = pixel_values.shape[:2]  # T, n
            keys = [part.unflatten(0, counts) for part in keys]
            features = features.unflatten(0, counts).flatten(1, 2)  # (T, n * H, W, D)
        changes = model.frame_changes(torch.cat([*last, features])).tolist()
        last[:] = [features[-1:]]
        if pixel_values.ndim == 5:
            features = aligned_features = features.new_empty(len(features), 0)
        for file, rows in zip(self, (features, aligned_features, *keys), strict=True):
            file.append(rows)
        return changes


class CandidateFrames:
    """The candidates of one video, encoded once.

    Attributes:
        features, aligned_features, keys, scales: see `CandidateFiles`.
        changes: how much each candidate but the first differs from the one before, (T - 1).
        sampling: the `SamplingRecord` of the candidates.
        seconds: spent on reading and encoding.
    """

    def __init__(self, files: CandidateFiles, changes: list[float], sampling: Any, seconds: float):
        self.features, self.aligned_features, self.keys, self.scales = files
        self.changes = changes
        self.sampling = sampling
        self.seconds = seconds
        self._shots: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return self.features.num_rows

    @property
    def has_features(self) -> bool:
        """Whether chosen frames can be asked about as they are; frames as squares are read again."""
        return self.features.shape != (0,)

    @property
    def num_bytes(self) -> int:
        """Of the files."""
        return sum(file.num_bytes for file in (self.features, self.aligned_features, self.keys, self.scales))

    def shots(self, min_frames: int, max_frames: int) -> list[tuple[int, int]]:
        """The shots of `find_shots`, found once."""
        found = self._shots.get((min_frames, max_frames))
        if found is None:
            found = self._shots[min_frames, max_frames] = find_shots(self.changes, min_frames, max_frames)
        return found

    def scores(self, model: Any, scorers: Sequence[Any]) -> torch.Tensor:
        """The score of each candidate for each of B questions, a `HiComFrameScorer` each: (B, T), on the CPU.

        Questions are scored one by one, so that each has the bits that it has alone, and the same frames.
        """
        parts, device = [], model.device
        size = min(FRAMES_PER_READ, max(1, PATCHES_PER_READ // prod(self.scales.shape)))
        chunks = zip(self.keys.chunks(size), self.scales.chunks(size), strict=True)
        for keys, scales in chunks:
            keys, scales = keys.to(device), scales.to(device)
            squares = (
                keys.flatten(0, -4),
                scales.flatten(0, -3),
            )  # (T * n, H, W, D), so that no patches of two are neighbours
            found = torch.cat([scorer.int8_frame_scores(*squares) for scorer in scorers])
            parts.append(found.unflatten(1, (len(keys), -1)).amax(dim=2).cpu())
        return torch.cat(parts, dim=1)


def encode_candidates(
    model: Any,
    processor: Any,
    video: Any,
    *,
    dtype: torch.dtype | None = None,
    folder: str | None = None,
    files: CandidateFiles | None = None,
    read: Callable[..., tuple[Any, list[int]]] | None = None,
    **request: Any,
) -> CandidateFrames:
    """Read and encode the candidates of a video, `vision_batch_size` frames at a time.

    Args:
        model, processor: of one folder.
        video: see `read_video`.
        dtype: in which features are kept, torch.bfloat16 for half of float32's bytes; None for the model's.
        folder: where they are kept while the result lives; None for the system's folder of temporary files.
        files: new ones that stay, in place of `dtype` and `folder`.
        read: reads in place of the video processor's `read_in_chunks`.
        **request: which frames are candidates: `sampling`, or num_frames, fps (by default see `candidate_request`), start, end,
            min_frames, max_frames, indices; on_decode_error, frame_rate, media_access; and tiles, which are scored in place of
            padded frames.

    Raises:
        VideoReadError: it cannot be read.
        ValueError: the request contradicts itself.
    """
    started = perf_counter()
    request = candidate_request(request)
    files = files or CandidateFiles.temporary(dtype, folder)
    changes: list[float] = []
    last: list[torch.Tensor] = []

    def consume(pixel_values: torch.Tensor) -> None:
        changes.extend(files.append(model, pixel_values, last))

    with torch.no_grad():
        sampling, rows = (read or processor.video_processor.read_in_chunks)(
            video, consume, model.config.vision_batch_size, **request
        )
    if len(rows) != rows[-1] + 1 - rows[0]:
        raise ValueError(f'{sampling.source}: candidates must be different frames; leave out short_video="repeat"')
    for file in files:  # what was read before the decoder showed that the file's times are wrong
        file.forget(rows[0])
    del changes[: rows[0]]
    return CandidateFrames(files, changes, sampling, perf_counter() - started)


def candidate_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request for candidates, with what holds where it names no number: one per second, but 64 of a short video.

    Raises:
        ValueError: it holds what says nothing of candidates.
    """
    request = {name: value for name, value in request.items() if value is not None}
    for name, remedy in NOT_OF_CANDIDATES.items():
        if name in request:
            raise ValueError(f"{name} says nothing of candidates; {remedy}")
    if not {"sampling", "num_frames", "fps", "indices"} & set(request):
        request = {"min_frames": MIN_CANDIDATES, **request, "fps": CANDIDATE_FPS}
    return request


def scored_tiles(selection: FrameSelection | None, tiles: FrameTiles | None) -> FrameTiles | None:
    """The squares by which candidates are scored.

    None where they are padded: there are no tiles, these say so, or nothing is scored (no selection, or the rule "uniform").
    """
    scores = selection is not None and selection.rule != "uniform"
    return tiles if scores and tiles is not None and tiles.score_candidates else None


def choose_for_questions(
    model: Any,
    processor: Any,
    candidates: CandidateFrames,
    questions: Sequence[str],
    selection: FrameSelection,
    instruction: str | Sequence[str | None] | None = None,
) -> list[SelectionRecord]:
    """Choose frames for each question.

    Args:
        model, processor, candidates: see `encode_candidates`.
        questions: B texts; their instruction is extracted as for the compression.
        selection: the rule and the budget.
        instruction: chooses in place of the words of each question: one for all, or one per question.

    Returns:
        B records.
    """
    num_frames = selection.num_frames or processor.max_frames_for(selection.max_video_tokens)
    group_length = 1 if processor.ratio is None else processor.ratio[0]
    common = {"times": candidates.sampling.times}
    rows: list[Any] = [None] * len(questions)
    if selection.rule != "uniform" and questions:
        with torch.no_grad():
            instructions = [
                processor.extract_instruction(question, report=False) if own is None else own
                for question, own in zip(questions, own_instructions(questions, instruction), strict=True)
            ]
            parts = [question_parts(text) for text in instructions]
            texts = list(dict.fromkeys(text for some in parts for text in some))
            ids = [processor.encode_instructions([text], report=False) for text in texts]
            scores = candidates.scores(model, [model.frame_scorer(one) for one in ids]).numpy()
            of_text = dict(zip(texts, scores, strict=True))
            rows = [[of_text[text] for text in some] for some in parts]
        common["shots"] = candidates.shots(group_length, selection.max_shot_frames)
    records = [
        choose_frames(selection, num_frames, group_length, len(candidates), scores=row, **common) for row in rows
    ]
    numbers = candidates.sampling.indices
    return [replace(record, indices=tuple(numbers[frame] for frame in record.frames)) for record in records]


def chosen_sampling(candidates: CandidateFrames, record: SelectionRecord) -> Any:
    """The `SamplingRecord` of the chosen frames."""
    frames, taken = record.frames, candidates.sampling
    return replace(
        taken,
        indices=[taken.indices[frame] for frame in frames],
        times=[taken.times[frame] for frame in frames] if taken.times else [],
        requested_frames=len(frames),
        fewer_than_requested=False,
    )


def chosen_video(model: Any, candidates: CandidateFrames, record: SelectionRecord) -> EncodedVideo:
    """The chosen frames as a video of their own, ready to be asked about; the candidates have features."""
    frames = list(record.frames)
    features = {
        "features": candidates.features.take(frames),
        "aligned_features": candidates.aligned_features.take(frames),
        "num_frames": torch.tensor([len(frames)]),
    }
    rows, columns = model.config.grid
    return EncodedVideo(
        features=features,
        sampling=chosen_sampling(candidates, record),
        num_frames=len(frames),
        num_patches=len(frames) * rows * columns,
        num_visual_tokens=model.config.num_visual_tokens(len(frames)),
        seconds=candidates.seconds,
    )


def reading_of_chosen(record: SelectionRecord, request: Mapping[str, Any]) -> dict[str, Any]:
    """What reads the frames that a question has chosen once more, as tiles: keywords that name them by their numbers.

    Args:
        record: of the choice.
        request: what read the candidates; how it is read stays the same.
    """
    reading = {name: request[name] for name in HOW_IT_IS_READ if request.get(name) is not None}
    return {"sampling": FrameSampling(indices=record.indices), **reading}
