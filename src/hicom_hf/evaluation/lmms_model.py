"""HICom as a model of lmms-eval. It is imported by lmms-eval alone, through `lmms_plugin`."""

import os
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports] it has an environment of its own

from ..inference.session import HiComSession
from .lmms_requests import cut, question_of
from .runner import Asking, ask_questions


class HiComLmms(lmms):
    """Answers requests of chat tasks; the questions of one video are asked together, on one encoding.

    Args:
        pretrained: folder or Hub repo id.
        num_frames, fps: frames of a video; the model's own number by default.
        device, dtype, attn_implementation: of `HiComSession.load`; under accelerate's launcher each rank takes its own GPU.
        batch_size: questions of one video at a time.
        workers: processes that read videos ahead.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "hicom-tiny",
        num_frames: int | None = None,
        fps: float | None = None,
        device: str = "auto",
        dtype: str = "auto",
        attn_implementation: str | None = None,
        batch_size: int | str = 16,
        workers: int = 0,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            raise ValueError(f"--model_args of hicom do not know {', '.join(sorted(unknown))}")
        self.pretrained = pretrained
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            device = str(self.accelerator.device)
        self.session = HiComSession.load(
            pretrained, device=device or "auto", dtype=dtype, attn_implementation=attn_implementation, cache_bytes=0
        )
        wanted = {"num_frames": num_frames, "fps": fps}
        sampling = {name: value for name, value in wanted.items() if value is not None}
        self.asking = Asking(sampling, batch_size=int(batch_size), workers=int(workers))

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answers in the order of the requests.

        Raises:
            ValueError: a request is none for HICom, or a video cannot be read: an empty answer would leave the denominator of
                some tasks.
        """
        questions, stops = [], []
        for number, request in enumerate(requests):
            _, doc_to_messages, settings, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]
            extract = self.session.processor.extract_instruction
            messages = doc_to_messages(document)
            questions.append(question_of(str(number), task, document, messages, settings, extract))
            stops.append(settings.get("until"))
        answers: dict[str, str] = {}
        for batch in ask_questions(self.session, questions, self.asking):
            for asked in batch:
                if asked.answer is None:
                    raise ValueError(f"{asked.question.video} cannot be read: {asked.failure}")
                answers[asked.question.id] = asked.answer.answer
        return [cut(answers[question.id], stop) for question, stop in zip(questions, stops, strict=True)]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refused."""
        raise ValueError("hicom answers in words; choose a task of generation, not one of likelihoods")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refused."""
        raise ValueError("hicom answers one turn; tasks of several rounds are not supported")
