"""Ask about a video: what is behind `hicom ask`.

Once per video: read it, encode it. Once per question: compress, generate.

    processor, model = load_processor("hicom-7b"), load_model("hicom-7b")
    video = encode_video(model, read_frames(processor, "cat.mp4", num_frames=32))
    for question in ("What does the cat do?", "Where is it?"):
        print(answer_question(model, processor, video, question).answer)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import TextStreamer

from ..assets import model_note
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.outputs_hicom import HiComVideoFeatures
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_reading_hicom import SamplingRecord

MAX_NEW_TOKENS = 256  # our choice: an answer of a paragraph


@dataclass(frozen=True)
class ReadVideo:
    """Frames that were sampled from a video; an image is a video of one frame.

    Attributes:
        pixel_values: (T, 3, S, S), normalised.
        sampling: what was taken.
        seconds: spent on reading, resizing and normalising.
    """

    pixel_values: torch.Tensor
    sampling: SamplingRecord
    seconds: float


@dataclass(frozen=True)
class EncodedVideo:
    """A video as SigLIP sees it, ready for any number of questions.

    Attributes:
        features: what the model's `encode_videos` returned.
        sampling: what was taken.
        num_frames: T.
        num_patches: what the LLM would read without compression, T x H x W.
        num_visual_tokens: what it does read.
        seconds: spent on encoding.
    """

    features: HiComVideoFeatures
    sampling: SamplingRecord
    num_frames: int
    num_patches: int
    num_visual_tokens: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """An answer and what it took.

    Attributes:
        question: as it was asked.
        instruction: the words of the question that conditioned the compression.
        answer: the model's words.
        num_prompt_tokens: length of the prompt, visual tokens included.
        num_new_tokens: length of the answer, its end included.
        finished: whether the model ended it; False if `max_new_tokens` did.
        first_token_seconds: from the question to the first token: compressing and reading the prompt.
        seconds: from the question to the end of the answer.
    """

    question: str
    instruction: str
    answer: str
    num_prompt_tokens: int
    num_new_tokens: int
    finished: bool
    first_token_seconds: float
    seconds: float


def read_frames(processor: HiComProcessor, video: Any, **sampling: Any) -> ReadVideo:
    """Read a video or an image.

    Args:
        processor: of the model.
        video: path, URL, bytes, folder of frames, array, ...; see `read_video`.
        **sampling: num_frames, fps, start, end, max_video_tokens, short_video, on_decode_error; see `HiComProcessor`.

    Raises:
        VideoReadError: it cannot be read.
        ValueError: the request contradicts itself.
    """
    started = perf_counter()
    encoded = processor(videos=[video], return_metadata=True, **sampling)
    return ReadVideo(encoded["pixel_values_videos"], encoded["video_metadata"][0], perf_counter() - started)


def encode_video(model: HiComForConditionalGeneration, video: ReadVideo) -> EncodedVideo:
    """Run SigLIP over a video, once for all questions."""
    started = perf_counter()
    num_frames = len(video.pixel_values)
    features = model.encode_videos(video.pixel_values, torch.tensor([num_frames]))
    _wait_for(model.device)
    rows, columns = model.config.grid
    return EncodedVideo(
        features=features,
        sampling=video.sampling,
        num_frames=num_frames,
        num_patches=num_frames * rows * columns,
        num_visual_tokens=model.config.num_visual_tokens(num_frames),
        seconds=perf_counter() - started,
    )


def answer_question(
    model: HiComForConditionalGeneration,
    processor: HiComProcessor,
    video: EncodedVideo,
    question: str,
    *,
    system: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer one question about an encoded video.

    Args:
        model, processor: of one folder.
        video: what `encode_video` returned.
        question: not empty. What it holds of special tokens is read as plain text.
        system: system prompt; None for that of the chat template.
        max_new_tokens: where the answer is cut.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        seed: of the draw; None for torch's own state.
        on_text: called with each piece of the answer as it is generated.

    Raises:
        ValueError: the question is empty, the temperature negative, or the prompt longer than the LLM can read.
    """
    if not question.strip():
        raise ValueError("the question is empty; HICom compresses a video on the condition of what is asked")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or above, got {temperature}")
    started = perf_counter()
    instruction = instruction_of(processor, question)
    inputs = _prompt(processor, video, question, instruction, system).to(model.device)
    num_prompt_tokens = inputs["input_ids"].shape[1]
    _check_length(model, num_prompt_tokens, max_new_tokens, video)

    streamer = _Streamer(processor.tokenizer, on_text)
    sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature}
    if seed is not None:
        torch.manual_seed(seed)
    output = model.generate(
        **inputs, video_features=video.features, max_new_tokens=max_new_tokens, streamer=streamer, **sampling
    )
    new_tokens = output[0, num_prompt_tokens:].tolist()
    return Answer(
        question=question,
        instruction=instruction,
        answer=processor.tokenizer.decode(new_tokens, skip_special_tokens=True).strip(),
        num_prompt_tokens=num_prompt_tokens,
        num_new_tokens=len(new_tokens),
        finished=bool(new_tokens) and new_tokens[-1] in _end_tokens(model),
        first_token_seconds=streamer.first_token_time - started,
        seconds=perf_counter() - started,
    )


def instruction_of(processor: HiComProcessor, question: str) -> str:
    """The words of a question that condition the compression: without options, requests for a letter and placeholders."""
    return processor.extract_instruction(question)


def model_notes(source: str | Path, config: HiComConfig) -> str | None:
    """What to tell those who read a model's answers: weights that are random, a small world; None if there is nothing.

    Args:
        source: folder or repo id that the model was loaded from.
        config: of the model.
    """
    notes = [note for note in (untrained_note(config.untrained_parts), model_note(source)) if note]
    return "; ".join(notes) or None


def untrained_note(untrained_parts: list[str]) -> str | None:
    """What to tell a person about a model with random weights; None for a trained one."""
    if not untrained_parts:
        return None
    parts = ", ".join(part.replace("_", " ") for part in untrained_parts)
    return f"this model has random, untrained weights ({parts}): the words of its answers mean nothing"


def _prompt(processor: HiComProcessor, video: EncodedVideo, question: str, instruction: str, system: str | None):
    """The chat with the question, as tensors; the video is already encoded, so only its length is given."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    chat = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    return processor.apply_chat_template(
        [*chat, {"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        sanitize_control_tokens=True,
        instruction=instruction,
        video_num_frames=[video.num_frames],
    )


def _check_length(model: HiComForConditionalGeneration, length: int, max_new_tokens: int, video: EncodedVideo) -> None:
    limit = model.config.text_config.to_dict().get("max_position_embeddings")
    if limit is not None and length + max_new_tokens > limit:
        raise ValueError(
            f"the prompt has {length} tokens ({video.num_visual_tokens} of them for {video.num_frames} frames), and with "
            f"max_new_tokens={max_new_tokens} it exceeds the {limit} that the LLM can read; take fewer frames "
            "(num_frames, max_video_tokens) or fewer new tokens"
        )


def _end_tokens(model: HiComForConditionalGeneration) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def _wait_for(device: torch.device) -> None:
    """Let a GPU finish, so that the clock measures its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Streamer(TextStreamer):
    """Hands on the text as it is generated, and notes when the first token came."""

    def __init__(self, tokenizer, on_text: Callable[[str], None] | None):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text
        self.first_token_time: float | None = None

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt and self.first_token_time is None:
            self.first_token_time = perf_counter()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text and self.on_text is not None:
            self.on_text(text)
