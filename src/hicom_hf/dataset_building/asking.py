"""Asks the captioner about clips: caption, then pairs, each answer kept at once and never asked for again."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from dataclasses import asdict
from typing import Any

from ..evaluation.client import AnswerError, ChatClient, Endpoint, EndpointError, GaveUpError, Reply
from ..hub.files import append_json_line, settings_fingerprint
from .captions import clip_pictures, filled, media_parts, prompt_text, request
from .engine_local import ITEM_ERRORS
from .pairs import pairs_schema, parse_pairs
from .refusals import BROKEN, EMPTY, REFUSED, TRUNCATED, NoUseError, checked_caption, is_refusal
from .settings import BuildSettings
from .stages import LOG_FILE, Stage

CAPTIONS, PAIRS = "captions", "pairs"
CAPTION_VERSION, PAIRS_VERSION = 2, 1  # 2: refusals are no captions
READERS_PER_CORE = 2  # clips that are read at once, per worker
PREPARED = 2  # clips in work, per request in flight: the next ones are read meanwhile


def answer_stages(settings: BuildSettings) -> tuple[Stage, Stage]:
    """Where captions and pairs lie.

    A clip's id says which part of which video it is, so its answers stay when other thresholds give the same clip. The address
    of the server, the number of requests and the like do not change answers.
    """
    assert settings.captions is not None  # asked by `Build`
    values = settings.to_dict()
    keys = ("model", "num_frames", "max_side", "jpeg_quality", "transport", "temperature", "max_tokens")
    captions = {key: values["captions"][key] for key in keys} | {"version": CAPTION_VERSION}
    captions["prompt"] = prompt_text(settings.captions.prompt)
    pairs = values["pairs"] | {"version": PAIRS_VERSION, "captions": captions}
    pairs["prompt"] = prompt_text(settings.pairs.prompt)
    return Stage(settings.output_dir, CAPTIONS, captions), Stage(settings.output_dir, PAIRS, pairs)


class UnusableError(AnswerError):
    """No try gave an answer that can be used.

    Attributes:
        reason: of the last try, see `refusals`.
    """

    def __init__(self, reason: str, words: str):
        super().__init__(words)
        self.reason = reason


class Asker:
    """Gets the answers that are missing.

    Args:
        settings: with `captions`.
        stages: captions and pairs.
        kinds: which of both is asked for. Together they take one reading of a clip's frames; pairs alone are asked for where
            there is a caption.
    """

    def __init__(
        self, settings: BuildSettings, stages: tuple[Stage, Stage], kinds: Collection[str] = (CAPTIONS, PAIRS)
    ):
        assert settings.captions is not None  # asked by `Build`
        self.settings, self.captions_settings = settings, settings.captions
        self.captions, self.pairs = stages
        self.kinds = kinds
        self.caption_prompt = prompt_text(self.captions_settings.prompt)
        self.pairs_prompt = prompt_text(settings.pairs.prompt)
        self._given_up: list[tuple[Stage, str]] = []  # since the last answer

    def is_missing(self, clip: Any) -> bool:
        if self.captions.has_failed(clip.id) or self.pairs.has_failed(clip.id):
            return False
        if PAIRS not in self.kinds:
            return not self.captions.is_done(clip.id)
        return not self.pairs.is_done(clip.id) and (CAPTIONS in self.kinds or self.captions.is_done(clip.id))

    async def run(self, clips: Iterable[Any]) -> AsyncGenerator[str]:
        """Answer clips, as many at once as the server bears; yields the id of each that is finished.

        Raises:
            EndpointError: the server is dead; what was answered is kept.
        """
        chosen = self.captions_settings
        endpoint = Endpoint(
            base_url=chosen.base_url.rstrip("/"),
            model=chosen.model,
            api_key_variable=chosen.api_key_variable,
            max_in_flight=chosen.max_in_flight,
            timeout=chosen.timeout,
        )
        reading = asyncio.Semaphore(READERS_PER_CORE * self.settings.workers)
        waiting = iter([clip for clip in clips if self.is_missing(clip)])
        async with ChatClient(endpoint) as client:
            running: set[asyncio.Task] = set()
            try:
                while True:
                    while len(running) < PREPARED * chosen.max_in_flight and (clip := next(waiting, None)) is not None:
                        running.add(asyncio.create_task(self._answer(client, clip, reading)))
                    if not running:
                        return
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    errors = [
                        error for task in done if (error := task.exception()) is not None
                    ]  # of all, so none is lost
                    if errors:
                        raise errors[0]
                    for task in done:
                        yield task.result()
            except EndpointError:
                for stage, clip_id in self._given_up:  # it was the server's fault: they are asked for again
                    stage.forget_failures([clip_id])
                raise
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _answer(self, client: ChatClient, clip: Any, reading: asyncio.Semaphore) -> str:
        try:
            async with reading:
                pictures = await asyncio.to_thread(
                    clip_pictures, clip.video.path, clip.start, clip.end, self.captions_settings
                )
        except ITEM_ERRORS as error:
            self.captions.write_failure(clip.id, f"{type(error).__name__}: {error}")
            return clip.id
        parts = media_parts(pictures, clip.id, self.captions_settings)
        seconds = round(clip.end - clip.start, 1)
        try:
            if not self.captions.is_done(clip.id):
                await self._caption(client, clip.id, parts, seconds)
        except AnswerError as error:
            self._note(self.captions, clip.id, error)
            return clip.id
        if PAIRS not in self.kinds:
            return clip.id
        try:
            await self._pairs(client, clip.id, parts, seconds)
        except AnswerError as error:
            self._note(self.pairs, clip.id, error)
        return clip.id

    def _note(self, stage: Stage, clip_id: str, error: AnswerError) -> None:
        stage.write_failure(clip_id, str(error), error.reason if isinstance(error, UnusableError) else None)
        if isinstance(error, GaveUpError):
            self._given_up.append((stage, clip_id))

    async def _caption(self, client: ChatClient, clip_id: str, parts: list, seconds: float) -> None:
        chosen = self.captions_settings
        words = filled(self.caption_prompt, seconds=seconds)
        caption, reply = await self._usable(
            lambda: client.chat(request(parts, words), temperature=chosen.temperature, max_tokens=chosen.max_tokens),
            checked_caption,
            self.captions,
            clip_id,
        )
        self._store(self.captions, clip_id, {"caption": caption}, reply, words)

    async def _pairs(self, client: ChatClient, clip_id: str, parts: list, seconds: float) -> None:
        chosen = self.settings.pairs
        caption = self.captions.read(clip_id)["caption"]
        words = filled(self.pairs_prompt, seconds=seconds, num_pairs=chosen.num_pairs, caption=caption)
        pairs, reply = await self._usable(
            lambda: client.chat(
                request(parts, words),
                schema=pairs_schema(chosen.num_pairs),
                temperature=chosen.temperature,
                max_tokens=chosen.max_tokens,
            ),
            lambda text: parse_pairs(text, chosen.num_pairs),
            self.pairs,
            clip_id,
        )
        self._store(self.pairs, clip_id, {"pairs": pairs}, reply, words)

    async def _usable(
        self, ask: Callable, parse: Callable[[str], Any], stage: Stage, clip_id: str
    ) -> tuple[Any, Reply]:
        """What is parsed of the first answer that can be used; the others are in the log.

        Raises:
            UnusableError: no try gave one.
            AnswerError: as of `ChatClient.chat`.
        """
        reason = words = ""
        for _ in range(self.captions_settings.tries):
            reply = await ask()
            try:
                return _parsed(reply, parse), reply
            except NoUseError as error:
                reason, words = error.reason, str(error)
            entry = {"stage": stage.name, "item": clip_id, "no use": reason}
            append_json_line(stage.output_dir / LOG_FILE, {**entry, "attempts": reply.attempts, "usage": reply.usage})
        raise UnusableError(reason, f"{self.captions_settings.tries} answers were of no use, the last one: {words}")

    def _store(self, stage: Stage, clip_id: str, answer: dict[str, Any], reply: Reply, words: str) -> None:
        """Keep an answer. What depends on the day, such as the number of attempts, goes to the log."""
        self._given_up = []
        values = asdict(reply)
        attempts, _ = values.pop("attempts"), values.pop("refused")
        stage.write(clip_id, {**answer, "reply": values, "prompt": settings_fingerprint({"prompt": words})})
        append_json_line(
            stage.output_dir / LOG_FILE,
            {"stage": stage.name, "item": clip_id, "attempts": attempts, "usage": reply.usage},
        )


def _parsed(reply: Reply, parse: Callable[[str], Any]) -> Any:
    """What is parsed of an answer.

    Raises:
        NoUseError: it is a refusal, cut, or in another form.
    """
    if reply.refused:
        raise NoUseError(REFUSED, f"the captioner refuses: {reply.text[:200]!r}")
    if reply.finish_reason == "length":
        raise NoUseError(TRUNCATED, f"the answer was cut at max_tokens: {reply.text[-100:]!r}")
    try:
        return parse(reply.text)
    except NoUseError:
        raise
    except ValueError as error:
        reason = REFUSED if is_refusal(reply.text) else BROKEN if reply.text.strip() else EMPTY
        raise NoUseError(reason, str(error)) from error
