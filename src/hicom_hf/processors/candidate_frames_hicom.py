"""Hours of video for many questions: candidates are encoded in chunks and kept in a file, each question chooses among them.

Memory holds one chunk of frames and one of features, however long the video is. Letters: T candidates, H/W patch grid, D vision
width, S image side.
"""

import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from .answering_hicom import EncodedVideo, own_instructions
from .frame_selection_hicom import (
    FrameSelection,
    SelectionRecord,
    choose_frames,
    combine_scores,
    find_shots,
    question_parts,
)

CANDIDATE_FPS = 1.0  # candidates per second of video where the request names no number
FRAMES_PER_READ = 256  # candidates whose features are in memory together while frames are scored


class FeatureFile:
    """Rows of equal tensors in a temporary file that ends with this object.

    Args:
        dtype: in which they are kept; None for that of the first rows.
        folder: where the file lies; None for the system's folder of temporary files.
    """

    def __init__(self, dtype: torch.dtype | None = None, folder: str | None = None):
        self.dtype = dtype
        self.shape: tuple[int, ...] = ()
        self.num_rows = 0
        self._first = 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as its owner
        weakref.finalize(self, self._file.close)

    @property
    def row_bytes(self) -> int:
        return 0 if self.dtype is None else torch.Size(self.shape).numel() * self.dtype.itemsize

    def append(self, rows: torch.Tensor) -> None:
        """Add rows (n, ...) behind the others."""
        self.dtype = self.dtype or rows.dtype
        self.shape = tuple(rows.shape[1:])
        self._file.seek((self._first + self.num_rows) * self.row_bytes)
        self._file.write(rows.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data)
        self.num_rows += len(rows)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Rows from `start` to before `stop`."""
        content = bytearray((stop - start) * self.row_bytes)
        self._file.seek((self._first + start) * self.row_bytes)
        self._file.readinto(content)
        assert self.dtype is not None  # the type of the rows that were written
        return torch.frombuffer(content, dtype=self.dtype).view(stop - start, *self.shape)

    def forget(self, num_rows: int) -> None:
        """Leave out the first rows; those behind them are numbered from 0."""
        self._first += num_rows
        self.num_rows -= num_rows

    def take(self, rows: Sequence[int]) -> torch.Tensor:
        """Rows by their number."""
        return torch.cat([self.read(row, row + 1) for row in rows])


class CandidateFrames:
    """The candidates of one video, encoded once.

    Attributes:
        features, aligned_features: a `FeatureFile` each.
        changes: how much each candidate but the first differs from the one before, (T - 1).
        sampling: the `SamplingRecord` of the candidates.
        seconds: spent on reading and encoding.
    """

    def __init__(self, features: FeatureFile, aligned_features: FeatureFile, changes, sampling: Any, seconds: float):
        self.features, self.aligned_features = features, aligned_features
        self.changes = changes
        self.sampling = sampling
        self.seconds = seconds

    def __len__(self) -> int:
        return self.features.num_rows

    @property
    def num_bytes(self) -> int:
        """Of the two files."""
        return len(self) * (self.features.row_bytes + self.aligned_features.row_bytes)

    def scores(self, model: Any, scorers: Sequence[Any]) -> torch.Tensor:
        """The score of each candidate for each of B questions, a `HiComFrameScorer` each: (B, T).

        Questions are scored one by one, so that each has the bits that it has alone, and the same frames.
        """
        parts = []
        for start in range(0, len(self), FRAMES_PER_READ):
            keys = self.aligned_features.read(start, min(start + FRAMES_PER_READ, len(self)))
            keys = keys.to(model.device, scorers[0].query.dtype)
            parts.append(torch.cat([scorer.frame_scores(keys) for scorer in scorers]))
        return torch.cat(parts, dim=1)


def encode_candidates(
    model: Any,
    processor: Any,
    video: Any,
    *,
    dtype: torch.dtype | None = None,
    folder: str | None = None,
    read: Callable[..., tuple[Any, list[int]]] | None = None,
    **request: Any,
) -> CandidateFrames:
    """Read and encode the candidates of a video, `vision_batch_size` frames at a time.

    Args:
        model, processor: of one folder.
        video: see `read_video`.
        dtype: in which features are kept, torch.bfloat16 for half of float32's bytes; None for the model's.
        folder: where they are kept while the result lives; None for the system's folder of temporary files.
        read: reads in place of the video processor's `read_in_chunks`.
        **request: which frames are candidates: `sampling`, or num_frames, fps (default 1 per second), start, end, max_frames;
            and on_decode_error, frame_rate, media_access.

    Raises:
        VideoReadError: it cannot be read.
        ValueError: the request contradicts itself.
    """
    started = perf_counter()
    request = {name: value for name, value in request.items() if value is not None}
    if not {"sampling", "num_frames", "fps"} & set(request):
        request["fps"] = CANDIDATE_FPS
    files = FeatureFile(dtype, folder), FeatureFile(dtype, folder)
    changes: list[float] = []
    last: list[torch.Tensor] = []  # features of the frame before the chunk

    def consume(pixel_values: torch.Tensor) -> None:
        features, aligned_features = model.encode_frames(pixel_values)
        changes.extend(model.frame_changes(torch.cat([*last, features])).tolist())
        last[:] = [features[-1:]]
        files[0].append(features)
        files[1].append(aligned_features)

    with torch.no_grad():
        sampling, rows = (read or processor.video_processor.read_in_chunks)(
            video, consume, model.config.vision_batch_size, **request
        )
    if len(rows) != rows[-1] + 1 - rows[0]:
        raise ValueError(f'{sampling.source}: candidates must be different frames; leave out short_video="repeat"')
    for file in files:  # what was read before the decoder showed that the file's times are wrong
        file.forget(rows[0])
    del changes[: rows[0]]
    return CandidateFrames(*files, changes, sampling, perf_counter() - started)


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
            scores = candidates.scores(model, [model.frame_scorer(one) for one in ids]).tolist()
            of_text = dict(zip(texts, scores, strict=True))
            rows = [combine_scores([of_text[text] for text in some], selection.min_prominence) for some in parts]
        common["shots"] = find_shots(candidates.changes, group_length, selection.max_shot_frames)
    return [choose_frames(selection, num_frames, group_length, len(candidates), scores=row, **common) for row in rows]


def chosen_video(model: Any, candidates: CandidateFrames, record: SelectionRecord) -> EncodedVideo:
    """The chosen frames as a video of their own, ready to be asked about."""
    frames = list(record.frames)
    taken = candidates.sampling
    sampling = replace(
        taken,
        indices=[taken.indices[frame] for frame in frames],
        times=[taken.times[frame] for frame in frames] if taken.times else [],
        requested_frames=len(frames),
        fewer_than_requested=False,
    )
    features = {
        "features": candidates.features.take(frames),
        "aligned_features": candidates.aligned_features.take(frames),
        "num_frames": torch.tensor([len(frames)]),
    }
    rows, columns = model.config.grid
    return EncodedVideo(
        features=features,
        sampling=sampling,
        num_frames=len(frames),
        num_patches=len(frames) * rows * columns,
        num_visual_tokens=model.config.num_visual_tokens(len(frames)),
        seconds=candidates.seconds,
    )
