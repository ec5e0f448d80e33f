"""Which frames each question of a data set has chosen, on disk: chosen once before training, read by every epoch and run.

```
FOLDER/frames-<fingerprint of towers, candidates and preprocessing>/
    about.json               the settings behind the fingerprint
    chosen-<unique>.jsonl    a line per video and process: what its questions chose
```
What is kept are frame numbers, not features. Letters: T candidates of a video.
"""

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..hub.files import append_json_line, read_json_lines, settings_fingerprint, write_text
from ..hub.progress import Progress, no_progress
from ..modeling.vision_hicom import tower_fingerprint
from ..processors.candidate_frames_hicom import (
    CandidateFiles,
    CandidateFrames,
    FeatureFile,
    choose_for_questions,
    encode_candidates,
)
from ..processors.frame_selection_hicom import FrameSelection
from .bad_samples import UNREADABLE_MEDIA, SampleError, raise_or_skip
from .conversations import TrainingItem
from .feature_cache import medium_key
from .media_reader import MediaReader, media_name, sample_errors
from .record_media import Medium

if TYPE_CHECKING:
    from ..modeling.modeling_hicom import HiComForConditionalGeneration
    from ..processors.processing_hicom import HiComProcessor

FORMAT_VERSION = 1  # part of the fingerprint
NOT_OF_CANDIDATES = ("selection", "tiles")  # settings: each key has what they say of candidates


@dataclass
class _Questions:
    """What is missing of one video: for each choice its key, the instruction that chooses, and how."""

    medium: Medium
    choices: dict[str, tuple[str, FrameSelection]] = field(default_factory=dict)


class _Uncounted(FeatureFile):
    """Features that are not kept: frames are scored by their keys alone."""

    def append(self, rows: torch.Tensor) -> None:
        self.num_rows += len(rows)


class SelectedFrames:
    """The frames that questions have chosen of the videos of a data set.

    They belong to the weights that score (both towers and the direct injection's query), to the candidates and to the
    preprocessing. Other ones use another folder below the same one. Several processes may write at a time, and an interrupted
    one resumes with the next video.

    Args:
        folder: where all choices lie.
        model: a `HiComForConditionalGeneration` as it is before training; it is not kept.
        processor: of the same folder.
        reader: the `MediaReader` of the encoder that reads the chosen frames; its request says which frames are candidates.

    Example:
        >>> encoder = ItemEncoder(  # doctest: +SKIP
        ...     processor, FrameSampling(fps=1), selection=FrameSelection(num_frames=8)
        ... )
        >>> dataset = HiComDataset("train.json", encoder)  # doctest: +SKIP
        >>> encoder.selected_frames = SelectedFrames("chosen", model, processor, encoder.reader)  # doctest: +SKIP
        >>> encoder.selected_frames.fill(model, dataset.items())  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        model: "HiComForConditionalGeneration",
        processor: "HiComProcessor",
        reader: MediaReader,
    ):
        self.processor, self.reader = processor, reader
        settings = {name: value for name, value in reader.settings.items() if name not in NOT_OF_CANDIDATES}
        self._about = {
            "format": FORMAT_VERSION,
            "parts": {name: tower_fingerprint(part) for name, part in model.scoring_parts().items()},
            "ratio": None if processor.ratio is None else list(processor.ratio),
            **settings,
        }
        self.folder = Path(folder) / f"frames-{settings_fingerprint(self._about)}"
        self._chosen: dict[str, tuple[int, ...]] = {}
        self._rules: Counter[str] = Counter()
        self._scanned: set[Path] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def rules(self) -> dict[str, int]:
        """Choices by the rule that chose in the end, see `used` of `SelectionRecord`."""
        return dict(self._rules)

    def chosen(self, medium: Medium, question: str) -> Medium:
        """A video with the numbers of the frames that a question has chosen.

        Raises:
            SampleError: nothing was chosen for it.
        """
        selection = self.reader.selection_of(medium)
        assert selection is not None  # the caller asks only then
        indices = self._chosen.get(self._key(medium, self._instruction(question), selection))
        if indices is None:
            raise SampleError(
                media_name(medium),
                UNREADABLE_MEDIA,
                f"no frames of it were chosen for its question in {self.folder}; it could not be read then (see the log), or "
                "has changed since",
            )
        return medium._replace(
            start=None, end=None, num_frames=None, fps=None, max_frames=None, selection=None, indices=indices
        )

    def refresh(self) -> None:
        """Read what other processes have written."""
        for path in sorted(self.folder.glob("chosen-*.jsonl")):
            if path not in self._scanned:
                self._scanned.add(path)
                for line in read_json_lines(path):
                    self._note(line)

    def _note(self, line: dict[str, Any]) -> None:
        for key, record in line["choices"].items():
            if key not in self._chosen:
                self._rules[record["used"]] += 1
            self._chosen[key] = tuple(record["indices"])

    def fill(
        self,
        model: "HiComForConditionalGeneration",
        items: Iterable[TrainingItem],
        *,
        on_bad_sample: Literal["raise", "skip"] = "raise",
        rank: int = 0,
        world_size: int = 1,
        progress: Progress | None = None,
    ) -> list[SampleError]:
        """Let every question choose that has not yet. A video is read and encoded once for all of its questions.

        With several processes, each takes a part of the videos; after a barrier, `refresh` finds those of the others.

        Args:
            model: the model that this was made for, on the device that computes.
            items: for example `HiComDataset.items()`.
            on_bad_sample: "raise", or "skip" videos that cannot be read; reading their samples is an error or skip then, too.
            rank, world_size: this process and how many there are.
            progress: shows progress over an iterable, given its length and a name.

        Returns:
            What was skipped.

        Raises:
            SampleError: a video cannot be read.
        """
        missing = self._missing(items)
        mine = [questions for key, questions in missing.items() if int(key, 16) % world_size == rank]
        skipped: list[SampleError] = []
        if not mine:
            return skipped
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "about.json", json.dumps(self._about, indent=2))
        path = self.folder / f"chosen-{uuid.uuid4().hex}.jsonl"
        self._scanned.add(path)
        for questions in (progress or no_progress)(mine, len(mine), "choosing frames"):
            try:
                line = {"video": media_name(questions.medium), "choices": dict(self._choose(model, questions))}
            except SampleError as error:
                raise_or_skip(error, on_bad_sample)
                skipped.append(error)
                continue
            append_json_line(path, line)
            self._note(line)
        return skipped

    def _missing(self, items: Iterable[TrainingItem]) -> dict[str, _Questions]:
        """What has not been chosen yet, by video."""
        missing: dict[str, _Questions] = {}
        for item in items:
            for medium in item.media:
                selection = self.reader.selection_of(medium)
                if selection is None:
                    continue
                instruction = self._instruction(item.question)
                key = self._key(medium, instruction, selection)
                if key not in self._chosen:
                    video = missing.setdefault(medium_key(self._candidates_of(medium)), _Questions(medium))
                    video.choices[key] = instruction, selection
        return missing

    def _instruction(self, question: str) -> str:
        return self.processor.extract_instruction(question, report=False)

    def _choose(self, model: Any, questions: _Questions) -> Iterator[tuple[str, dict[str, Any]]]:
        """Keys of choices, and what they chose; the numbers are those of frames of the file."""
        candidates = self._candidates(model, questions.medium)
        for selection in dict.fromkeys(selection for _, selection in questions.choices.values()):
            of_it = [(key, words) for key, (words, one) in questions.choices.items() if one == selection]
            texts = [words for _, words in of_it]
            records = choose_for_questions(model, self.processor, candidates, texts, selection, texts)
            for (key, words), record in zip(of_it, records, strict=True):
                yield (
                    key,
                    {
                        "instruction": words,
                        "used": record.used,
                        "reason": record.reason,
                        "indices": list(record.indices),
                        "times": [round(time, 3) for time in record.times],
                    },
                )

    def _candidates(self, model: Any, medium: Medium) -> CandidateFrames:
        """The candidates of a video, encoded; of each its keys alone are kept."""
        keys, scales = FeatureFile(torch.int8), FeatureFile(torch.float32)
        with sample_errors(medium):
            return encode_candidates(
                model,
                self.processor,
                medium.source,
                files=CandidateFiles(_Uncounted(), _Uncounted(), keys, scales),
                sampling=replace(self.reader.request(medium), short_video="once"),
                on_decode_error=self.reader.on_decode_error,
                frame_rate=medium.frame_rate,
                media_access=self.reader.media_access,
                tiles=self.reader.scored_tiles(medium),
            )

    def _key(self, medium: Medium, instruction: str, selection: FrameSelection) -> str:
        """What identifies a choice: the video with its candidates, the words that choose, and how."""
        identity = [medium_key(self._candidates_of(medium)), instruction, asdict(selection)]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def _candidates_of(self, medium: Medium) -> Medium:
        """A video as its candidates are read: padded, unless their squares are scored."""
        return medium._replace(tiles=self.reader.scored_tiles(medium))
