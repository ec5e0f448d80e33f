"""The processor: a chat with videos and images becomes everything that the model's forward takes.

Letters: B rows of text, V videos of the whole batch, T frames of one, L = 64 instruction tokens, S image side in pixels.
"""

import re
from math import ceil, prod
from numbers import Integral
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin, TextKwargs
from transformers.video_processing_utils import BaseVideoProcessor

from .chat_content_hicom import ChatVideo, clear_template_errors, with_chat_videos, with_own_frames
from .chosen_chats_hicom import ChosenChats
from .frame_sampling_hicom import with_request
from .instruction_encoding_hicom import InstructionEncoding, check_unicode
from .instruction_hicom import InstructionRules, check_instruction_rules
from .square_frames_hicom import joined
from .user_text_hicom import UserText
from .video_sources_hicom import is_frame_list

# Arguments of a call that say which frames are taken; everything else goes to the tokenizer.
SAMPLING_KEYS = (
    "sampling",
    "num_frames",
    "fps",
    "start",
    "end",
    "max_frames",
    "min_frames",
    "max_video_tokens",
    "short_video",
    "indices",
    "on_decode_error",
    "do_sample_frames",
    "frame_rate",
    "media_access",
    "media_bounds",
    "return_metadata",
)
TEXT_KEYS = {*TextKwargs.__annotations__, "return_text_replacement_offsets", "sanitize_control_tokens"}
# Arguments of other processors of transformers -> what is there in their place.
REFUSED = {
    "video_metadata": "return_metadata=True returns it; frames without a clock take frame_rate=",
    "video_fps": "fps= says how many frames are taken per second; frames without a clock take frame_rate=",
}
OWN_KEYS = (*SAMPLING_KEYS, "instruction", "video_num_frames")
SIGLIP_POSITIONS = 64  # instruction tokens; SigLIP pools the last of exactly these (official release)


class HiComProcessor(ProcessorMixin, InstructionEncoding, UserText, ChosenChats):
    """Tokenizer of the LLM, tokenizer of the instruction (SigLIP text) and video processor in one.

    Args:
        tokenizer: of the LLM; holds the two placeholder tokens.
        instruction_tokenizer: of SigLIP's text tower.
        video_processor: a `HiComVideoProcessor`.
        chat_template: a template that takes videos and images in the content, see `multimodal_chat_template`.
        ratio: group lengths over (frames, patch rows, patch columns); None for a compressor without local branch.
        grid: patch rows and columns of a frame.
        num_global_tokens: tokens of the global branch.
        instruction_length: L, positions that an instruction is padded or cut to.
        instruction_vocab_size: of SigLIP's text tower; a tokenizer that does not fit it is refused.
        instruction_rules: which words of a text are the instruction; "general", or "official" for the phrases of the release.
        image_token, video_token: the placeholders.

    Raises:
        ValueError: if the tokenizers do not fit.

    Example:
        >>> processor = HiComProcessor.from_pretrained("hicom-7b")  # doctest: +SKIP
        >>> chat = [{"role": "user", "content": [{"type": "video", "path": "cat.mp4"},
        ...     {"type": "text", "text": "What does the cat do?"}]}]
        >>> inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
        ...     return_tensors="pt", num_frames=32)  # doctest: +SKIP
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        instruction_tokenizer: PreTrainedTokenizerBase | None = None,
        video_processor: BaseVideoProcessor | None = None,
        chat_template: str | None = None,
        ratio: list[int] | tuple[int, ...] | None = (4, 3, 3),
        grid: list[int] | tuple[int, ...] = (27, 27),
        num_global_tokens: int = 32,
        instruction_length: int = SIGLIP_POSITIONS,
        instruction_vocab_size: int | None = None,
        instruction_rules: InstructionRules = "general",
        image_token: str = "<|image_pad|>",
        video_token: str = "<|video_pad|>",
    ):
        super().__init__(tokenizer, instruction_tokenizer, video_processor, chat_template=chat_template)
        self.ratio = None if ratio is None else list(ratio)
        self.grid = list(grid)
        self.num_global_tokens = num_global_tokens
        self.instruction_length = instruction_length
        self.instruction_vocab_size = instruction_vocab_size
        self.instruction_rules = check_instruction_rules(instruction_rules)
        self.image_token = image_token
        self.video_token = video_token
        self.image_token_id = self._placeholder_id(image_token)
        self.video_token_id = self._placeholder_id(video_token)
        self._check_instruction_tokenizer()

    def _placeholder_id(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if token_id is None or token_id == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {token!r}; add it with tokenizer.add_tokens([{token!r}])")
        return token_id

    def _check_instruction_tokenizer(self):
        # Where the folder instruction_tokenizer/ is missing, transformers takes the LLM's tokenizer without an error.
        size = len(self.instruction_tokenizer)
        if self.instruction_vocab_size is not None and size > self.instruction_vocab_size:
            raise ValueError(
                f"instruction_tokenizer has {size} tokens but SigLIP's text tower has {self.instruction_vocab_size}: it is not "
                "the tower's tokenizer (is the folder instruction_tokenizer/ missing or overwritten?)"
            )
        if self.instruction_tokenizer.get_vocab() == self.tokenizer.get_vocab():
            raise ValueError(
                "instruction_tokenizer is the LLM's tokenizer; it must be that of SigLIP's text tower (is the folder "
                "instruction_tokenizer/ missing?)"
            )

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As in transformers; the video processor is checked here.

        Raises:
            TypeError: `video_processor` is none.
        """
        # Without torchvision transformers cannot name the class of a video processor.
        if argument_name == "video_processor":
            if not isinstance(argument, BaseVideoProcessor):
                raise TypeError(f"video_processor must be a HiComVideoProcessor, got {type(argument).__name__}")
            return BaseVideoProcessor
        return super().check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type, pretrained_model_name_or_path, **kwargs):
        # transformers looks for a model's config beside each tokenizer. There is none in instruction_tokenizer/, which an
        # offline cache cannot distinguish from "not downloaded", and the LLM's tokenizer would be loaded in its place.
        if sub_processor_type == "instruction_tokenizer":
            kwargs["config"] = PreTrainedConfig()
        return super()._load_tokenizer_from_pretrained(sub_processor_type, pretrained_model_name_or_path, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Keys that a call can return: those of the LLM's tokenizer, pixels, frame counts and instructions."""
        return [
            *self.tokenizer.model_input_names,
            "pixel_values",
            "image_instruction_ids",
            "pixel_values_videos",
            "video_num_frames",
            "video_instruction_ids",
        ]

    # How many tokens ---------------------------------------------------------------------------------------------------

    def num_visual_tokens(self, num_frames: int) -> int:
        """Tokens that the LLM reads for a video of `num_frames` frames; 1 for an image.

        ceil(size / ratio) groups per axis, one token each, and the global tokens: the rule of
        `HiComCompressorConfig.num_tokens`, which this file cannot import (a test holds them equal).
        """
        groups = 0
        if self.ratio is not None:
            groups = prod(ceil(size / step) for size, step in zip((num_frames, *self.grid), self.ratio, strict=True))
        return groups + self.num_global_tokens

    def max_frames_for(self, max_video_tokens: int) -> int:
        """The largest number of frames whose visual tokens fit `max_video_tokens`.

        Raises:
            TypeError: if it is not a whole number.
            ValueError: if not even one frame fits, or if the budget sets no bound (no local branch).
        """
        if isinstance(max_video_tokens, bool) or not isinstance(max_video_tokens, Integral):
            raise TypeError(f"max_video_tokens must be a whole number, got {max_video_tokens!r}")
        if self.ratio is None:
            raise ValueError("max_video_tokens sets no bound: without a local branch every video has the same tokens")
        if self.num_visual_tokens(1) > max_video_tokens:
            raise ValueError(
                f"max_video_tokens={max_video_tokens} is too little: one frame makes {self.num_visual_tokens(1)}"
            )
        tokens_per_step = self.num_visual_tokens(1) - self.num_global_tokens
        return (max_video_tokens - self.num_global_tokens) // tokens_per_step * self.ratio[0]

    @property
    def image_processor(self) -> BaseVideoProcessor:
        """The video processor, under the name that pipelines of transformers expect; it also prepares images."""
        return self.video_processor

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs) -> MultiModalData:
        """How many placeholder tokens images and videos take, for programs that serve models of transformers.

        Args:
            image_sizes: (height, width) of each image.
            video_sizes: (frames, height, width) of each video.
        """
        counts = {}
        if image_sizes is not None:
            counts["num_image_tokens"] = [self.num_visual_tokens(1) for _ in image_sizes]
            counts["num_image_patches"] = [1 for _ in image_sizes]  # rows of `pixel_values` per image
        if video_sizes is not None:
            counts["num_video_tokens"] = [self.num_visual_tokens(num_frames) for num_frames, _, _ in video_sizes]
        return MultiModalData(**counts)

    # Calls -------------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        instruction: str | list[str] | None = None,
        video_num_frames: list[int] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare prompts with any number of videos and images each.

        Args:
            images: an image (path, URL, PIL, array) or list of them, in the order of their placeholders.
            text: B prompts, each video and image one placeholder token.
            videos: a video (path, URL, bytes, file, folder, array, list of PIL images) or list of them, likewise.
            instruction: what conditions the compression: one for all, one per row, or one per video and image in the order
                of the prompt; a list as long as there are rows is one per row. Default: the text of each row's last user turn,
                without options and formatting requests.
            video_num_frames: in place of `videos`, the frames of each: for features that were encoded before.
            sampling: which frames, as one `FrameSampling`; not together with its fields as keywords.
            num_frames, fps, start, end, max_frames, short_video, indices, on_decode_error, do_sample_frames, frame_rate: which
                frames; see `HiComVideoProcessor.preprocess`.
            max_video_tokens: as many frames as fit this many visual tokens per video; only a bound where `num_frames`, `fps`
                or `do_sample_frames=False` chooses the number.
            media_access: which files and servers may be read, see `read_video`.
            media_bounds: what a video or image may cost, a `MediaBounds`.
            return_metadata: also return `video_metadata`, one record of what was sampled per video.
            **kwargs: for the tokenizer (return_tensors, padding, truncation, ...); `videos_kwargs` and `text_kwargs` work, too.

        Returns:
            `input_ids`, `attention_mask`; with videos `pixel_values_videos` (sum T, 3, S, S), `video_num_frames` (V,) and
            `video_instruction_ids` (V, L); with images `pixel_values` and `image_instruction_ids`.

        Raises:
            ValueError: if placeholders, videos and instructions do not match in number, or a video cannot be read.
            TypeError: for an argument that neither the video processor nor the tokenizer knows.
        """
        sampling, text_kwargs = self._split_kwargs(kwargs)
        return_metadata = sampling.pop("return_metadata", False)
        videos, images = _flatten(videos, frame_lists=True), _flatten(images, frame_lists=False)
        if not (text or videos or images):
            raise ValueError("give text, videos or images")
        rows = None if text is None else [text] if isinstance(text, str) else text
        if rows is not None and not (isinstance(rows, (list, tuple)) and all(isinstance(row, str) for row in rows)):
            raise TypeError(f"text must be a string or a list of strings, got {type(text).__name__}")
        check_unicode(rows or [])

        data = {}
        if videos and video_num_frames is not None:
            raise ValueError("give either videos or video_num_frames (for features encoded before), not both")
        if video_num_frames is not None and any(num_frames < 1 for num_frames in video_num_frames):
            raise ValueError(f"video_num_frames must be at least 1 each, got {list(video_num_frames)}")
        if videos:
            encoded = self._read_videos(videos, sampling, return_metadata)
            video_num_frames = encoded["video_num_frames"].tolist()
            data.update(encoded)
        if images:
            reading = {key: sampling.get(key) for key in ("media_access", "media_bounds")}
            data.update(self.video_processor.preprocess_images(images, return_tensors="pt", **reading))
        if rows is None:
            return BatchFeature(data)

        counts = self._count_placeholders(rows, len(video_num_frames or []), len(images))
        data.update(self._instructions(rows, counts, instruction))
        data.update(self._tokenize(rows, video_num_frames or [], len(images), text_kwargs))
        tensor_type = text_kwargs.get("return_tensors")
        return BatchFeature(data, tensor_type=tensor_type, skip_tensor_conversion=self.skip_tensor_conversion)

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        processor_kwargs: dict | None = None,
        sanitize_control_tokens: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render chats and, with `tokenize=True`, read their videos and images.

        As in transformers, with these additions: the instruction of every video and image is the text of the chat's last user
        turn unless `instruction` is given; the arguments of `__call__` may be given directly; special tokens and
        placeholders in a text are plain text; and the part of a video may state which of its frames are taken.

        Args:
            conversation: a chat or a list of chats; a video is `{"type": "video", "path" | "url" | "video": ...}`, with any of
                start, end, num_frames, fps, max_frames and frame_rate, which come before the arguments of the call.
            chat_template: in place of the processor's own.
            processor_kwargs: arguments of `__call__`.
            sanitize_control_tokens: whether special tokens in texts are plain text; False lets them act. Default: yes, with
                `tokenize=True`.
            **kwargs: arguments of `__call__`, and those of transformers' method (tokenize, return_dict, return_tensors,
                add_generation_prompt, ...).

        Raises:
            TypeError: a chat is no list.
            ValueError: a part has an unknown type or key, or the template cannot render the chat.
        """
        processor_kwargs = dict(processor_kwargs or {})
        processor_kwargs.update({key: kwargs.pop(key) for key in OWN_KEYS if key in kwargs})
        is_batch = isinstance(conversation, (list, tuple)) and any(
            not isinstance(turn, dict) for turn in conversation[:1]
        )
        chats = [with_chat_videos(chat) for chat in (conversation if is_batch else [conversation])]
        if kwargs.get("tokenize") and processor_kwargs.get("instruction") is None:
            processor_kwargs["instruction"] = [self.instruction_of_chat(chat) for chat in chats]
        if sanitize_control_tokens is None:
            sanitize_control_tokens = bool(kwargs.get("tokenize")) and not kwargs.get("return_assistant_tokens_mask")
        with clear_template_errors("" if chat_template else self.tokenizer.name_or_path):
            return super().apply_chat_template(
                chats if is_batch else chats[0],
                chat_template,
                processor_kwargs=processor_kwargs,
                sanitize_control_tokens=sanitize_control_tokens,
                **kwargs,
            )

    # Parts of a call ---------------------------------------------------------------------------------------------------

    def _split_kwargs(self, kwargs: dict) -> tuple[dict, dict]:
        """Arguments for the frame sampler and for the tokenizer."""
        nested = {
            **kwargs.pop("videos_kwargs", {}),
            **kwargs.pop("text_kwargs", {}),
        }
        common = kwargs.pop("common_kwargs", {})  # as in transformers, what the others may overrule
        for unused in ("images_kwargs", "audio_kwargs", "audio"):
            if kwargs.pop(unused, None):
                raise TypeError(f"HiComProcessor takes no {unused}")
        twice = sorted(set(nested) & set(kwargs))
        if twice:
            raise ValueError(
                f"{', '.join(twice)} was given twice, directly and in videos_kwargs or text_kwargs; give it once"
            )
        kwargs = {**common, **nested, **kwargs}
        sampling = with_request({key: kwargs.pop(key) for key in SAMPLING_KEYS if key in kwargs})
        unknown = sorted(set(kwargs) - TEXT_KEYS)
        if unknown:
            hints = [f". {key}: {REFUSED[key]}" for key in unknown if key in REFUSED]
            raise TypeError(
                f"HiComProcessor has no argument {', '.join(map(repr, unknown))}; see HiComProcessor.__call__{''.join(hints)}"
            )
        return sampling, kwargs

    def _sampling(self, sampling: dict) -> dict:
        """Turn a budget of tokens into a number of frames, or into a bound where something else chooses the number."""
        sampling = {key: value for key, value in sampling.items() if value is not None}
        budget, own = sampling.pop("max_video_tokens", None), self.video_processor
        if budget is None:
            return sampling
        fitting = self.max_frames_for(budget)
        every_frame = not sampling.get("do_sample_frames", own.do_sample_frames)
        if "num_frames" in sampling or "fps" in sampling or every_frame or own.fps is not None:
            bound = sampling.get("max_frames", own.max_frames)
            sampling["max_frames"] = fitting if bound is None else min(fitting, bound)
        else:
            sampling["num_frames"] = fitting
        return sampling

    def _read_videos(self, videos: list, sampling: dict, return_metadata: bool) -> BatchFeature:
        """Read the videos of a call; one whose part of a chat says something about its frames is read by itself."""
        options = {"return_metadata": return_metadata, "return_tensors": "pt"}
        if not any(isinstance(video, ChatVideo) for video in videos):
            return self.video_processor(videos, **options, **self._sampling(sampling))
        read = []
        for video in videos:
            own = video.frames if isinstance(video, ChatVideo) else {}
            source = video.source if isinstance(video, ChatVideo) else video
            read.append(self.video_processor([source], **options, **self._sampling(with_own_frames(sampling, own))))
        data: dict[str, Any] = {
            name: joined([one[name] for one in read]) for name in ("pixel_values_videos", "video_num_frames")
        }
        if return_metadata:
            data["video_metadata"] = [record for one in read for record in one["video_metadata"]]
        return BatchFeature(data)

    def _count_placeholders(self, rows: list[str], num_videos: int, num_images: int) -> list[list[str]]:
        """Per row its placeholders in order, as "video" or "image".

        Raises:
            ValueError: if there are more or fewer of them than videos or images.
        """
        pattern = "|".join(re.escape(token) for token in self.placeholders)
        rows = [self.without_marked(row) for row in rows]
        kinds = [
            ["video" if found == self.video_token else "image" for found in re.findall(pattern, row)] for row in rows
        ]
        for kind, token, given in (("video", self.video_token, num_videos), ("image", self.image_token, num_images)):
            per_row = [row.count(kind) for row in kinds]
            if sum(per_row) != given:
                raise ValueError(
                    f"the text has {sum(per_row)} {kind} placeholders {token} (per row: {per_row}) but {given} {kind}s were "
                    f"given; every {kind} needs exactly one"
                    + (f". <{kind}> in a text is a word; write {token}" if f"<{kind}>" in "".join(rows) else "")
                )
        return kinds

    def _tokenize(self, rows: list[str], video_num_frames: list[int], num_images: int, text_kwargs: dict) -> dict:
        """Repeat every placeholder once per visual token, and tokenize."""
        text_kwargs = {"padding": True, **self._tokenizer_defaults(), **text_kwargs}
        text_kwargs.pop("return_tensors", None)
        return_types = text_kwargs.pop("return_mm_token_type_ids", False)
        return_offsets = text_kwargs.pop("return_text_replacement_offsets", False)
        rows, offsets = self.get_text_with_replacements(
            [self.as_written(row) for row in rows],
            [self.image_token * self.num_visual_tokens(1)] * num_images,
            [self.video_token * self.num_visual_tokens(num_frames) for num_frames in video_num_frames],
        )
        if not any(self.is_marked(row) for row in rows):
            text_kwargs.pop("sanitize_control_tokens", None)
        encoded = self.tokenizer(rows, **text_kwargs)
        self._check_special_mm_tokens(rows, encoded, modalities=["image", "video"])
        if return_offsets:
            encoded["text_replacement_offsets"] = offsets
        if return_types:
            encoded["mm_token_type_ids"] = self.create_mm_token_type_ids(encoded["input_ids"])
        return dict(encoded)

    def _tokenizer_defaults(self) -> dict:
        """Arguments that the tokenizer was made with, as padding="max_length": they hold where a call says nothing else."""
        made_with = self.tokenizer.init_kwargs
        return {
            key: getattr(self.tokenizer, key, made_with[key]) for key in TextKwargs.__annotations__ if key in made_with
        }


def _flatten(sources, frame_lists: bool) -> list:
    """One source, a list of them, or a list of them per row, as one list.

    Args:
        sources: a string, path, array or file is one source; None is none.
        frame_lists: a list of frames is one source, a video; see `is_frame_list`.
    """
    if sources is None:
        return []
    if not isinstance(sources, (list, tuple)):
        return [sources]
    if frame_lists and is_frame_list(sources):
        return [list(sources)]
    return [source for item in sources for source in _flatten(item, frame_lists)]
