"""The pipeline "video-text-to-text": videos and questions go in, answers come out.

Once per video: read it, encode it. Once per question: compress, generate. Letters: B rows, T frames of one video.
"""

import os
import shutil
from collections.abc import Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from transformers import AutoProcessor, GenerationConfig
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator
from transformers.utils import logging
from transformers.utils.hub import cached_file

from .answering_hicom import MAX_NEW_TOKENS, check_length, untrained_note
from .pipeline_inputs_hicom import (
    Request,
    Rows,
    as_request,
    collate_requests,
    continued,
    is_chat,
    is_table,
    is_video,
    only_item,
    only_one,
    split_questions,
)

logger = logging.get_logger(__name__)

# Which frames are taken; see `HiComProcessor.__call__`, whose file this one cannot import (a test holds the lists equal).
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
)
PREPROCESS_KEYS = (
    *SAMPLING_KEYS,
    "question",
    "instruction",
    "system",
    "continue_final_message",
    "processor_kwargs",
    "tiles",
    "selection",
)
POSTPROCESS_KEYS = ("return_full_text", "return_tensors", "return_metadata", "skip_special_tokens")
# Arguments of `generate` beside the fields of its config.
GENERATE_ARGUMENTS = {
    "assistant_model",
    "generation_config",
    "logits_processor",
    "prefix_allowed_tokens_fn",
    "stopping_criteria",
    "streamer",
    "tokenizer",
}
GENERATE_KEYS = GENERATE_ARGUMENTS | {name for name in vars(GenerationConfig()) if not name.startswith("_")}
# What this file imports, to be saved with it.
IMPORTED_FILES = ("answering_hicom.py", "pipeline_inputs_hicom.py")
# Folder or repo -> the note for users of a pipeline that is loaded from it. The package fills in its own model.
NOTES: dict[str, str] = {}


class VideoTextToTextPipeline(Pipeline):
    """Answers questions about videos and images.

    Inputs:
        * a video and a question: `pipe("cat.mp4", text="What does the cat do?")`. A video may be a path, a URL,
          bytes, a folder of frames, a GIF, an array (T, height, width, 3), or a list of PIL images; an image also serves;
        * a dictionary: `pipe({"video": "cat.mp4", "text": "Who is it?"})`, with "image" in place of "video" for an image,
          "question" as another name of "text", and "instruction" for another condition of the compression;
        * a chat, which may hold several videos and images: `pipe([{"role": "user", "content": [...]}])`;
        * a list of any of these, with one question for all or one each: a list of answers comes back, `batch_size` at a time;
        * a video and a list of questions: the video is read and encoded once, and a list of answers comes back;
        * a generator, a data set of any of these, or a table or column of the library datasets: answers come as they are made.

    Output: per input a list of `{"generated_text": ..., "instruction": ...}`, one for each of `num_return_sequences`. The
    instruction is the text that conditioned the compression.

    Args of a call, or of `pipeline(...)` for all calls:
        sampling, num_frames, fps, start, end, min_frames, max_frames, max_video_tokens, short_video, indices,
        on_decode_error, do_sample_frames: which frames are taken; seconds for start and end. See `HiComProcessor`.
        tiles: a `FrameTiles`, or its fields as a dictionary: frames are not padded, but the question chooses among overlapping
            squares of them. Images count as videos of one frame.
        selection: each question chooses among the frames of each video that are taken, which may then be hours: a
            `FrameSelection`, or its fields as a dictionary, such as {"num_frames": 32}, for each video of a prompt. With tiles,
            frames are chosen by their squares (as they are without tiles, where `score_candidates` of tiles is False); those
            that were chosen are read again as tiles.
        instruction: the condition of the compression of all videos; default: the question.
        system: system prompt for chats that have none; default: that of the chat template.
        continue_final_message: continue the last message; default: if it is the assistant's.
        max_new_tokens: longest answer, default 256. All other arguments of `generate` may be given, too, directly or
            in `generate_kwargs`; `streamer=` streams.
        return_full_text: return the chat, continued by the answer, as "generated_text"; default: the answer alone.
        return_tensors: return the token ids of the answer as "generated_token_ids" in place of its text.
        return_metadata: also return what was sampled, one dictionary per video, as "video_metadata"; with tiles which were
            chosen, as "tiles"; under a selection which frames were chosen and why, as "selection".
        batch_size: prompts that are answered together, default 1.

    Raises:
        ValueError: a question is empty or missing, numbers of videos and questions differ, or the model has no processor.
        TypeError: an unknown argument.

    Example:
        >>> from transformers import pipeline
        >>> pipe = pipeline("video-text-to-text", model="hicom-7b", trust_remote_code=True)  # doctest: +SKIP
        >>> pipe("cat.mp4", text="What does the cat do?", num_frames=32)  # doctest: +SKIP
        [{'instruction': 'What does the cat do?', 'generated_text': 'It sleeps.'}]
    """

    model: Any
    processor: Any  # a `HiComProcessor`; `__init__` refuses models without one
    # None: where transformers cannot load a processor, it continues without one, so that the error can be ours.
    _load_processor = None
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS)

    def __init__(self, model: Any, *args: Any, processor: Any = None, **kwargs: Any):
        processor = load_processor(model) if processor is None else processor
        super().__init__(model, *args, processor=processor, **kwargs)
        untrained = untrained_note(self.model.config.untrained_parts)
        if untrained:
            logger.warning(untrained)
        note = NOTES.get(self.model.config.name_or_path)
        if note:
            logger.warning(note)

    def __call__(self, inputs: Any = None, text: Any = None, question: Any = None, **kwargs: Any) -> Any:
        """Answer; see the class for what may be given and what comes back."""
        question = only_one(text, question)
        if inputs is None:  # transformers' own pipelines take a chat as `text`
            inputs, question = question, None
        if inputs is None or (isinstance(inputs, (str, bytes)) and not inputs):
            raise ValueError("give a video and a question, a chat, or a list of them")
        if is_table(inputs):
            inputs = Rows(inputs)
        if isinstance(inputs, (GeneratorType, Dataset)):
            if isinstance(question, (list, tuple)):
                raise ValueError("a stream of inputs takes one question for all, or each brings its own")
            return super().__call__(inputs, question=question, **kwargs)
        if isinstance(inputs, (list, tuple)) and not is_chat(inputs) and not is_video(inputs):
            questions = question if isinstance(question, (list, tuple)) else [question] * len(inputs)
            if len(questions) != len(inputs):
                raise ValueError(
                    f"got {len(inputs)} videos and {len(questions)} questions; give one question, or as many"
                )
            requests = [as_request(item, text) for item, text in zip(inputs, questions, strict=True)]
            return super().__call__(requests, **kwargs) if requests else []
        source, questions = split_questions(inputs, question)
        if questions is None:
            return super().__call__(as_request(inputs, question), **kwargs)
        return super().__call__(self._about_one_video(source, questions, kwargs), **kwargs) if questions else []

    def _about_one_video(self, source: Any, questions: list[str], kwargs: dict) -> list[Request]:
        """Read and encode a video once, for several questions about it."""
        requests = [
            as_request(source, question) for question in questions
        ]  # before the expensive part: questions may be wrong
        if requests[0].chat[-1]["content"][0]["type"] != "video":
            return requests  # for an image of one frame it does not pay, and text alone has nothing to encode
        params = {**self._preprocess_params, **self._sanitize_parameters(**_without_base_arguments(kwargs))[0]}
        sampling = {**(params.get("processor_kwargs") or {}), **{k: params[k] for k in SAMPLING_KEYS if k in params}}
        video = requests[0].chat[-1]["content"][0]["video"]
        if params.get("selection") is not None:
            with self.device_placement():
                choices = params["selection"], params.get("tiles")
                candidates = [self.processor.encode_candidates(self.model, video, *choices, **sampling)]
            for request in requests:
                request.candidates = candidates
            return requests
        if params.get("tiles") is not None:
            return self._about_tiles(video, requests, params, sampling)
        encoded = self.processor(videos=[video], **{**sampling, "return_metadata": True})
        with self.device_placement():
            features = self.model.encode_videos(encoded["pixel_values_videos"], encoded["video_num_frames"])
        for request in requests:
            request.chat[-1]["content"][0] = {"type": "video"}
            request.features = {name: value for name, value in features.items() if value is not None}
            request.num_frames = encoded["video_num_frames"].tolist()
            request.metadata = encoded["video_metadata"]
        return requests

    def _about_tiles(self, video: Any, requests: list[Request], params: dict, sampling: dict) -> list[Request]:
        """Encode the tiles of a video once, and choose among them for each question."""
        with self.device_placement():
            tiled = self.processor.encode_tiles(self.model, video, params["tiles"], **sampling)
            for request in requests:
                own = params.get("instruction") if request.instruction is None else request.instruction
                if own is None:
                    own = self.processor.instruction_of_chat(request.chat)
                record, encoded = self.processor.choose_tiles(self.model, tiled, own)
                request.chat[-1]["content"][0] = {"type": "video"}
                request.features, request.num_frames = encoded.features, [tiled.num_frames]
                request.metadata, request.tiles = [tiled.sampling], [record]
        return requests

    def _sanitize_parameters(self, **kwargs):
        generate = dict(kwargs.pop("generate_kwargs", None) or {})
        preprocess, postprocess, direct = (
            {key: kwargs.pop(key) for key in list(kwargs) if key in known}
            for known in (PREPROCESS_KEYS, POSTPROCESS_KEYS, GENERATE_KEYS)
        )
        twice = sorted(set(generate) & set(direct))
        if twice:
            raise ValueError(f"{', '.join(twice)} was given twice, directly and in generate_kwargs; give it once")
        if kwargs:
            raise TypeError(
                f"the video-text-to-text pipeline has no argument {', '.join(map(repr, sorted(kwargs)))}; it takes "
                f"{', '.join((*PREPROCESS_KEYS, *POSTPROCESS_KEYS))}, batch_size, generate_kwargs and the arguments of generate"
            )
        generate.update(direct)
        return preprocess, generate, postprocess

    # From a request to tokens, and back ------------------------------------------------------------------------------

    def preprocess(
        self,
        inputs: Any,
        question: str | None = None,
        instruction: str | None = None,
        system: str | None = None,
        continue_final_message: bool | None = None,
        processor_kwargs: dict | None = None,
        selection: Any = None,
        tiles: Any = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """Read the videos of one request and tokenize its chat."""
        request = inputs if isinstance(inputs, Request) else as_request(inputs, question)
        chat = list(request.chat)
        if system is not None and chat[0]["role"] != "system":
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        continues = chat[-1]["role"] == "assistant" if continue_final_message is None else continue_final_message
        arguments = {**(processor_kwargs or {}), **sampling, "return_metadata": True}
        if request.instruction is not None or instruction is not None:
            arguments["instruction"] = instruction if request.instruction is None else request.instruction
        else:
            arguments["instruction"] = self.processor.instruction_of_chat(chat)
        if (selection is not None or tiles is not None) and request.features is None:
            request = self._with_choices(request, chat, {"selection": selection, "tiles": tiles}, arguments)
            chat = request.chat
        if request.features is not None:
            arguments["video_num_frames"] = request.num_frames
        tensors = self.processor.apply_chat_template(
            chat,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,  # special tokens in a question are plain text
            **arguments,
        )
        model_inputs: dict[str, Any] = dict(tensors.items())
        metadata = request.metadata or model_inputs.pop("video_metadata", [])
        if request.features is not None:
            model_inputs["video_features"] = request.features
        return {
            **model_inputs,
            "request": Request(
                chat,
                arguments["instruction"],
                continues=continues,
                metadata=metadata,
                chosen=request.chosen,
                tiles=request.tiles,
            ),
        }

    def _with_choices(self, request: Request, chat: list[dict], choices: dict, arguments: dict) -> Request:
        """The request with what its instruction sees of each video: frames that it chooses, tiles, or tiles of those frames."""
        if get_worker_info() is not None:
            raise ValueError(
                "under a selection, and with tiles, videos are encoded by the model, which worker processes do not have; pass "
                "num_workers=0"
            )
        with self.device_placement():
            seen = self.processor.see_chat(self.model, chat, candidates=request.candidates, **choices, **arguments)
        return replace(
            request,
            chat=seen.chat,
            features=seen.features,
            num_frames=seen.num_frames,
            metadata=seen.metadata,
            chosen=seen.selections,
            tiles=seen.tiles,
        )

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs) -> dict[str, Any]:
        model_inputs = dict(model_inputs)
        request = model_inputs.pop("request")
        num_rows, prompt_length = model_inputs["input_ids"].shape
        check_length(self.model.config, prompt_length)
        arguments = self._prepare_generate_kwargs(generate_kwargs)
        if arguments.get("stop_strings") is not None:
            arguments.setdefault("tokenizer", self.processor.tokenizer)
        output = self.model.generate(**model_inputs, **arguments)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        answers = sequences[:, prompt_length:].unflatten(0, (num_rows, -1))  # (B, return sequences, new tokens)
        return {"generated_ids": answers, "request": request}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        return_full_text: bool = False,
        return_tensors: bool = False,
        return_metadata: bool = False,
        skip_special_tokens: bool = True,
    ) -> list[dict[str, Any]]:
        """The answer of a row as a record; see the class for the options."""
        request, records = model_outputs["request"], []
        for ids in model_outputs["generated_ids"][0]:
            record = {"instruction": request.instruction}
            if return_tensors:
                record["generated_token_ids"] = ids
            else:
                text = self.processor.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
                text = text if request.continues else text.strip()
                record["generated_text"] = continued(request, text) if return_full_text else text
            if return_metadata:
                record["video_metadata"] = [sampled.to_dict() for sampled in request.metadata]
                if request.chosen:
                    record["selection"] = [chosen.to_dict() for chosen in request.chosen]
                if request.tiles:
                    record["tiles"] = [chosen.to_dict() for chosen in request.tiles]
            records.append(record)
        return records

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> PipelineIterator:
        """As in transformers, whose own batches would hold the first frame of each video only."""
        kind = PipelineDataset if isinstance(inputs, Sized) else PipelineIterator
        requests = kind(inputs, self.preprocess, preprocess_params)
        tokenizer = self.processor.tokenizer
        collate = only_item if batch_size == 1 else partial(collate_requests, pad_token_id=tokenizer.pad_token_id)
        loader = DataLoader(requests, num_workers=num_workers, batch_size=batch_size, collate_fn=collate)
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    # Saving ------------------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, processor and all code into one folder that loads without `hicom_hf` installed."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for code in (Path(__file__), *(Path(__file__).with_name(name) for name in IMPORTED_FILES)):
            if code.resolve() != (folder / code.name).resolve():
                shutil.copyfile(code, folder / code.name)
        self.model.save_pretrained(folder, processor=self.processor, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Upload model, processor and all code in one commit; arguments as for the model's `push_to_hub`."""
        return self.model.push_to_hub(repo_id, processor=self.processor, **kwargs)


def load_processor(model):
    """The processor beside a model's weights.

    Raises:
        ValueError: there is none, or it cannot be loaded; names the folder and the remedy.
    """
    source = model.config.name_or_path
    remedy = f"save it there with processor.save_pretrained({source!r}), or pass processor= to pipeline()"
    if not source:
        raise ValueError("the pipeline needs a processor, and this model comes from no folder; pass processor=")
    options = {"revision": getattr(model.config, "_commit_hash", None)}
    quietly = {
        f"_raise_exceptions_for_{case}": False for case in ("missing_entries", "connection_errors", "gated_repo")
    }
    if cached_file(source, "processor_config.json", **options, **quietly) is None:
        raise ValueError(
            f"{source}: the model has no processor beside it (processor_config.json is missing); {remedy}"
        )
    # The processor's code is trusted if the model's code was.
    trusted = type(model).__module__.startswith("transformers_modules.")
    try:
        return AutoProcessor.from_pretrained(source, trust_remote_code=trusted, **options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ValueError(f"{source}: the processor cannot be loaded: {error}; {remedy}") from error


def _without_base_arguments(kwargs: dict) -> dict:
    return {key: value for key, value in kwargs.items() if key not in ("batch_size", "num_workers")}
