"""How questions about a video are answered: the core of the session, of the pipeline and of `hicom ask`.

Once per video: `read_frames`, `encode_video`. Once per question, to compress and generate: `answer_questions`, or `answer_chats`
for several turns and videos. Nothing here knows of files of a model, of threads or of terminals. Letters: B questions, T frames,
H/W patch grid, S image side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

from .square_frames_hicom import concatenated_features

MAX_NEW_TOKENS = 256  # our choice: an answer of a paragraph
MIN_TEMPERATURE = 1e-4  # our choice: below it the likeliest token is drawn anyway, or scores overflow


@dataclass(frozen=True)
class ReadVideo:
    """Frames that were sampled from a video; an image is a video of one frame.

    Attributes:
        pixel_values: (T, 3, S, S), normalised.
        sampling: the `SamplingRecord` of what was taken.
        seconds: spent on reading, resizing and normalising.
    """

    pixel_values: torch.Tensor
    sampling: Any
    seconds: float


@dataclass(frozen=True)
class EncodedVideo:
    """A video encoded by SigLIP, for any number of questions.

    Attributes:
        features: the `HiComVideoFeatures` of the model's `encode_videos`.
        sampling: the `SamplingRecord` of what was taken.
        num_frames: T.
        num_patches: tokens that the LLM would read without compression, T x H x W.
        num_visual_tokens: tokens that the LLM reads.
        seconds: spent on encoding.
    """

    features: Any
    sampling: Any
    num_frames: int
    num_patches: int
    num_visual_tokens: int
    seconds: float


@dataclass(frozen=True)
class Chat:
    """A chat that ends in a question about encoded videos.

    Attributes:
        turns: messages; the content of each is a list of `{"type": "text", "text": ...}` and `{"type": "video"}`.
        videos: the `EncodedVideo` of each video part, in order.
        instruction: conditions the compression of all of them; None for the words of the last user turn.
    """

    turns: list[dict[str, Any]]
    videos: list[EncodedVideo]
    instruction: str | None = None

    @property
    def question(self) -> str:
        """The text of the last user turn."""
        asked = [turn for turn in self.turns if turn["role"] == "user"]
        return "\n".join(part["text"] for part in asked[-1]["content"] if part["type"] == "text") if asked else ""


@dataclass(frozen=True)
class Answer:
    """An answer, with its tokens and times.

    Attributes:
        question: as it was asked.
        instruction: the words of the question that conditioned the compression.
        answer: the model's words.
        num_prompt_tokens: length of the prompt, visual tokens included.
        num_new_tokens: length of the answer, its end included.
        finished: whether the model ended it; False if `max_new_tokens` or a cancellation did.
        cancelled: whether it was cancelled.
        first_token_seconds: from the question to the first token: compressing and reading the prompt.
        seconds: from the question to the end of the answer.
        selection: the `SelectionRecord` of the frames that were chosen for the question; None if none were chosen for it.
        tiles: the `TilesRecord` of the parts of the frames that were chosen for it; likewise.
    """

    question: str
    instruction: str
    answer: str
    num_prompt_tokens: int
    num_new_tokens: int
    finished: bool
    cancelled: bool
    first_token_seconds: float
    seconds: float
    selection: Any = None
    tiles: Any = None


def read_frames(processor: Any, video: Any, **sampling: Any) -> ReadVideo:
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


def encode_video(model: Any, video: ReadVideo) -> EncodedVideo:
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


def answer_question(model: Any, processor: Any, video: EncodedVideo, question: str, **options: Any) -> Answer:
    """Answer one question about an encoded video; options and errors as for `answer_questions`.

    Args:
        model, processor, video: see `answer_questions`.
        question: not empty.
        **options: of `answer_questions`; `on_text` takes the piece of text alone.
    """
    on_text = options.pop("on_text", None)
    if on_text is not None:
        options["on_text"] = lambda _, text: on_text(text)
    [answer] = answer_questions(model, processor, video, [question], **options)
    return answer


def answer_questions(
    model: Any,
    processor: Any,
    video: EncodedVideo | Sequence[EncodedVideo],
    questions: Sequence[str],
    *,
    instruction: str | Sequence[str] | None = None,
    system: str | None = None,
    **options: Any,
) -> list[Answer]:
    """Answer questions about one encoded video together, in one static batch.

    Args:
        model, processor: a `HiComForConditionalGeneration` and its `HiComProcessor`.
        video: what `encode_video` returned; or B of them, one for each question.
        questions: B of them, none empty. What they hold of special tokens is read as plain text.
        instruction: conditions the compression in place of the words of each question: one for all, or one per question.
        system: system prompt; None for that of the chat template.
        **options: max_new_tokens, temperature, top_p, seed, on_text, is_cancelled; see `answer_chats`.

    Returns:
        B answers. Their times are those of the batch.

    Raises:
        ValueError: a question is empty, the temperature negative, there are more or fewer instructions than questions, or a
            prompt is longer than the LLM can read.
    """
    before = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    videos = [video] * len(questions) if isinstance(video, EncodedVideo) else video
    chats = []
    for question, own, seen in zip(questions, own_instructions(questions, instruction), videos, strict=True):
        check_question(question)
        turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
        chats.append(Chat([*before, turn], [seen], own))
    return answer_chats(model, processor, chats, **options)


def answer_chats(
    model: Any,
    processor: Any,
    chats: Sequence[Chat],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    top_p: float | None = None,
    seed: int | None = None,
    on_text: Callable[[int, str], None] | None = None,
    is_cancelled: Callable[[int], bool] | None = None,
) -> list[Answer]:
    """Answer chats about encoded videos together, in one static batch.

    In float32 at temperature 0 each answer has the token ids that it has alone; in half precision sums in another order may
    exchange near ties.

    Args:
        model, processor: a `HiComForConditionalGeneration` and its `HiComProcessor`.
        chats: B of them, each ending in a user's turn that is not empty.
        max_new_tokens: where an answer is cut.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        top_p: of the draw: only the likeliest tokens that together have this probability, above 0 and at most 1.
        seed: of the draw; None for torch's own state.
        on_text: called with the number of the chat and each piece of its answer as it is generated.
        is_cancelled: asked with the number of a chat before each further token; true ends that answer. The others continue
            unchanged.

    Returns:
        B answers. Their times are those of the batch.

    Raises:
        ValueError: a question is empty, a setting out of its range, or a prompt longer than the LLM can read.
    """
    for chat in chats:
        check_question(chat.question)
    sampling = _drawing(temperature, top_p)
    if not chats:
        return []
    started = perf_counter()
    instructions = [
        processor.extract_instruction(chat.question) if chat.instruction is None else chat.instruction
        for chat in chats
    ]
    inputs = _prompts(processor, chats, instructions)
    num_padded = inputs["input_ids"].shape[1]
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    check_length(model.config, max(lengths), max_new_tokens, _visual_part(chats[lengths.index(max(lengths))].videos))

    watch = _Watch(processor.tokenizer, num_padded, len(chats), end_tokens(model), on_text, is_cancelled)
    if seed is not None:
        torch.manual_seed(seed)
    output = model.generate(
        **inputs.to(model.device),
        **_joined_features([video for chat in chats for video in chat.videos]),
        max_new_tokens=max_new_tokens,
        stopping_criteria=StoppingCriteriaList([watch]),
        **sampling,
    )
    watch.end()
    seconds = perf_counter() - started
    answers = []
    for row, chat in enumerate(chats):
        tokens = output[row, num_padded : num_padded + watch.num_tokens[row]].tolist()
        answers.append(
            Answer(
                question=chat.question,
                instruction=instructions[row],
                answer=processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
                num_prompt_tokens=lengths[row],
                num_new_tokens=len(tokens),
                finished=bool(tokens) and tokens[-1] in watch.end_tokens,
                cancelled=watch.cancelled[row],
                first_token_seconds=watch.first_token_time - started,
                seconds=seconds,
            )
        )
    return answers


def own_instructions(questions: Sequence[str], instruction: str | Sequence[str | None] | None) -> list[str | None]:
    """The instruction of each question, given one for all or one per question; None where it is taken from the question."""
    if instruction is None or isinstance(instruction, str):
        return [instruction] * len(questions)
    if len(instruction) != len(questions):
        raise ValueError(f"instruction has {len(instruction)} texts for {len(questions)} questions; give one for each")
    return list(instruction)


def check_question(question: Any) -> None:
    """Refuse what cannot condition a compression.

    Raises:
        TypeError: it is no text.
        ValueError: it is missing or empty.
    """
    if question is None:
        raise ValueError("the question is missing; give it as text=..., or a chat that ends in it")
    if not isinstance(question, str):
        raise TypeError(f"a question must be a string, got {type(question).__name__}")
    if not question.strip():
        raise ValueError("the question is empty; HICom compresses a video on the condition of what is asked")


def check_length(config: Any, num_tokens: int, max_new_tokens: int = 0, detail: str = "") -> None:
    """Refuse a prompt that the LLM cannot read together with its answer.

    Args:
        config: of the model.
        num_tokens: of the prompt.
        max_new_tokens: of the answer.
        detail: what the message adds on the prompt's tokens.

    Raises:
        ValueError: they are more than the LLM's `max_position_embeddings`.
    """
    limit = config.text_config.to_dict().get("max_position_embeddings")
    if limit is not None and num_tokens + max_new_tokens > limit:
        answer = f"and with max_new_tokens={max_new_tokens} it exceeds" if max_new_tokens else "more than"
        raise ValueError(
            f"the prompt has {num_tokens} tokens{detail}, {answer} the {limit} that the LLM can read; take fewer frames "
            f"(num_frames, max_video_tokens){' or fewer new tokens' if max_new_tokens else ''}"
        )


def untrained_note(untrained_parts: Sequence[str]) -> str | None:
    """What to report to a person about a model with random weights; None for a trained one."""
    if not untrained_parts:
        return None
    parts = ", ".join(part.replace("_", " ") for part in untrained_parts)
    return f"this model has random, untrained weights ({parts}): the words of its answers mean nothing"


def end_tokens(model: Any) -> list[int]:
    """Token ids that end an answer."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]


def _drawing(temperature: float, top_p: float | None) -> dict[str, Any]:
    """The arguments of `generate` that say how a token is chosen."""
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or above, got {temperature}")
    if 0 < temperature < MIN_TEMPERATURE:  # scores divided by it are no numbers any more
        raise ValueError(
            f"temperature must be 0 (the likeliest token) or at least {MIN_TEMPERATURE}, got {temperature}"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": temperature, **({} if top_p is None else {"top_p": top_p})}


def _prompts(processor, chats: Sequence[Chat], instructions: list[str]):
    """The chats as tensors padded on the left; videos are already encoded, so only their lengths are given."""
    return processor.apply_chat_template(
        [chat.turns for chat in chats],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        sanitize_control_tokens=True,
        instruction=instructions,
        video_num_frames=[video.num_frames for chat in chats for video in chat.videos],
        processor_kwargs={"padding": len(chats) > 1, "padding_side": "left"},
    )


def _visual_part(videos: Sequence[EncodedVideo]) -> str:
    """What an error message adds on the visual tokens of a prompt."""
    num_tokens, num_frames = (
        sum(getattr(video, name) for video in videos) for name in ("num_visual_tokens", "num_frames")
    )
    return f" ({num_tokens} of them for {num_frames} frames)" if videos else ""


def _joined_features(videos: Sequence[EncodedVideo]) -> dict[str, Any]:
    """The features of all videos of a batch, as the argument of `generate`.

    A video serves several questions as it is. Only videos that are all different are put one after another: those of one length
    are then compressed together.
    """
    if not videos:
        return {}
    num_different = len({id(video.features) for video in videos})
    if num_different == 1:
        return {"video_features": videos[0].features}
    if num_different < len(videos):  # a video that several rows ask about is not copied for each of them
        return {"video_features": [video.features for video in videos]}
    return {"video_features": concatenated_features([video.features for video in videos])}


def _wait_for(device: torch.device) -> None:
    """Let a GPU finish, so that the clock measures its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Watch(StoppingCriteria):
    """Sees every token of a batch as it is generated: hands on text, notes the first token's time, ends cancelled answers."""

    def __init__(self, tokenizer, prompt_length: int, num_rows: int, end_tokens: list[int], on_text, is_cancelled):
        self.prompt_length = prompt_length
        self.end_tokens = end_tokens
        self.is_cancelled = is_cancelled
        self.first_token_time = float("nan")
        self.num_tokens = [0] * num_rows
        self.cancelled = [False] * num_rows
        self.done = [False] * num_rows
        self.streamers = (
            None if on_text is None else [_RowStreamer(tokenizer, row, on_text) for row in range(num_rows)]
        )

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        newest = input_ids[:, -1].tolist()
        if self.first_token_time != self.first_token_time:
            self.first_token_time = perf_counter()
        for row, token in enumerate(newest):
            if self.done[row]:
                continue
            self.num_tokens[row] += 1
            if self.streamers is not None:
                self.streamers[row].put(torch.tensor([token]))
            self.cancelled[row] = token not in self.end_tokens and self._wants_to_stop(row)
            self.done[row] = token in self.end_tokens or self.cancelled[row]
        return torch.tensor(self.done, device=input_ids.device)

    def _wants_to_stop(self, row: int) -> bool:
        return self.is_cancelled is not None and self.is_cancelled(row)

    def end(self) -> None:
        """Hand on what the streamers still hold back."""
        for streamer in self.streamers or ():
            streamer.end()


class _RowStreamer(TextStreamer):
    """Text of one answer, word by word."""

    def __init__(self, tokenizer, row: int, on_text: Callable[[int, str], None]):
        super().__init__(tokenizer, skip_special_tokens=True)
        self.row, self.on_text = row, on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(self.row, text)
