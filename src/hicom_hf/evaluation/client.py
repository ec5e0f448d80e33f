"""A client of servers that speak OpenAI's chat protocol: vLLM, SGLang, llama.cpp, and hosted ones.

Evaluation's judge and `hicom build-data` ask through it. Many requests are in flight at once; how many, the server's answers
decide: the number grows while all goes well and is halved when the server says that it is too much.
"""

import asyncio
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

# huggingface_hub 1 brings httpx, huggingface_hub 2 httpx2; with both, a type checker would take their union.
if TYPE_CHECKING:
    import httpx2 as httpx
else:
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx

BUSY = (429, 503)  # the server has too much to do
RETRIED = (408, 409, 425, *BUSY, 500, 502, 504)
REFUSED_FOR_ALL = (401, 403, 404)  # wrong key, wrong address or wrong model: no request would succeed
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds
FIRST_IN_FLIGHT = 4
TRIES_OF_THE_FIRST = 3  # tries of a request at an address where no server has answered yet
SHOWN_BYTES = 500  # of a server's words


class EndpointError(ConnectionError):
    """The server answers no request: wrong address, wrong key, or not running. Further requests are useless."""


class AnswerError(ValueError):
    """The server has no usable answer to this request; other requests may succeed."""


class GaveUpError(AnswerError):
    """No try got an answer. If the server then turns out to be dead, it says nothing about the request."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where and how to ask.

    Args:
        base_url: up to and with "/v1".
        model: its name there.
        api_key_variable: the environment variable with the key; None for none. The key itself is in no file.
        max_in_flight: requests at once, at most.
        timeout: seconds for one try, until the last byte of the answer.
        retries: tries after the first one.
        failures_to_stop: tries in a row, over all requests, that fail before the server counts as dead.
    """

    base_url: str
    model: str
    api_key_variable: str | None = None
    max_in_flight: int = 32
    timeout: float = 300.0
    retries: int = 6
    failures_to_stop: int = 30


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: of the assistant.
        model: as the server states it.
        finish_reason: "stop", or "length" if the answer was cut.
        usage: tokens, as the server counts them.
        attempts: how often it was asked for.
        refused: the server says that it is a refusal (`refusal` of the message, or the content filter's finish_reason).
    """

    text: str
    model: str
    finish_reason: str
    usage: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1
    refused: bool = False


class Throttle:
    """How many requests may be in flight: one more for each success, half after a refusal, from 1 to `most`."""

    def __init__(self, most: int):
        self.most, self.limit, self.in_flight = most, min(FIRST_IN_FLIGHT, most), 0
        self._changed = asyncio.Condition()
        self._num_halved = 0

    async def enter(self) -> int:
        """Wait for a place; the answer belongs to `leave`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.in_flight < self.limit)
            self.in_flight += 1
            return self._num_halved

    async def leave(self, ticket: int, busy: bool, answered: bool = True) -> None:
        """Give the place back.

        Args:
            ticket: of `enter`.
            busy: the server has too much to do.
            answered: there is an answer; a request that failed for another reason changes nothing.
        """
        async with self._changed:
            self.in_flight -= 1
            if not busy:
                self.limit = min(self.most, self.limit + answered)
            elif ticket == self._num_halved:  # refusals of requests that were sent together count once
                self.limit, self._num_halved = max(1, self.limit // 2), self._num_halved + 1
            # As many as there are places: waking all who wait costs more than a request when thousands wait.
            self._changed.notify(max(0, self.limit - self.in_flight))


class ChatClient:
    """Asks one endpoint; an async context manager.

    Args:
        endpoint: where and how.
        random_waits: source of the jitter.

    Raises:
        ValueError: the environment variable for the key is not set.

    Example:
        >>> async with ChatClient(Endpoint(base_url="http://localhost:8000/v1", model="m")) as client:  # doctest: +SKIP
        ...     reply = await client.chat([{"role": "user", "content": "Hello"}])
    """

    def __init__(self, endpoint: Endpoint, random_waits: random.Random | None = None):
        self.endpoint = endpoint
        self.random = random_waits or random.Random()
        self.throttle = Throttle(endpoint.max_in_flight)
        self.takes_schema = True  # until the server refuses one
        self._failures_in_a_row = 0
        self._has_answered = False
        self._unreachable: str | None = None  # why the last try did not reach a server
        self._dead: str | None = None
        key = read_key(endpoint.api_key_variable)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        most = endpoint.max_in_flight
        limits: Any = httpx.Limits(
            max_connections=most, max_keepalive_connections=most
        )  # of the same one of both libraries
        self._http = httpx.AsyncClient(headers=headers, limits=limits, timeout=endpoint.timeout)

    async def __aenter__(self) -> "ChatClient":
        return self

    async def __aexit__(self, *exception) -> None:
        await self._http.aclose()

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1024,
    ) -> Reply:
        """Send one request, with retries for errors that may be temporary.

        Args:
            messages: in OpenAI's form.
            schema: JSON schema of the answer; a server that refuses it is asked without.
            temperature, max_tokens: of the answer.

        Raises:
            AnswerError: this request was refused, or failed at every try.
            EndpointError: the server does not answer, or refuses every request.
        """
        body = {"model": self.endpoint.model, "messages": list(messages)}
        body |= {"temperature": temperature, "max_tokens": max_tokens}
        for attempt in range(self.endpoint.retries + 1):
            form = _response_format(schema) if schema is not None and self.takes_schema else {}
            outcome = await self._try(body | form, attempt + 1)
            if isinstance(outcome, Reply):
                return outcome
            status, words, wait = outcome
            if status in (400, 422) and form:
                self.takes_schema = False
                continue
            if status in REFUSED_FOR_ALL:
                self._dead = f"{self.endpoint.base_url} answers {status}: {words}"
            elif status not in (None, *RETRIED):
                raise AnswerError(f"the server refuses the request with {status}: {words}")
            tries = self.endpoint.retries + 1 if self._has_answered else TRIES_OF_THE_FIRST
            if self._unreachable is not None and attempt + 1 >= min(tries, self.endpoint.retries + 1):
                self._dead = f"{self.endpoint.base_url} cannot be reached: {self._unreachable}"
            self._raise_if_dead()
            if attempt < self.endpoint.retries:
                await asyncio.sleep(wait if wait is not None else self._backoff(attempt))
        raise GaveUpError(
            f"{self.endpoint.retries + 1} tries failed, the last one with {status or 'no answer'}: {words}"
        )

    async def _try(self, body: dict[str, Any], attempt: int) -> Reply | tuple[int | None, str, float | None]:
        """A reply, or status, the server's words and the seconds that it wants to be left alone."""
        ticket = await self.throttle.enter()
        busy = answered = False
        try:
            self._raise_if_dead()
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    response = await self._http.post(f"{self.endpoint.base_url}/chat/completions", json=body)
            except (httpx.TransportError, TimeoutError) as error:
                busy = isinstance(error, (TimeoutError, httpx.TimeoutException))
                is_there = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                self._unreachable = None if is_there else (str(error) or type(error).__name__)
                words = "no answer in time" if busy else (str(error) or type(error).__name__)
                return self._failed(None, words, None)
            busy = response.status_code in BUSY
            self._has_answered, self._unreachable = True, None
            if response.status_code != 200:
                wait = retry_after(response.headers.get("retry-after"))
                return self._failed(response.status_code, response.text[:SHOWN_BYTES], wait)
            try:
                reply = _reply(response.json(), attempt)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                return self._failed(
                    None, f"what came is no chat completion ({error}): {response.text[:SHOWN_BYTES]}", None
                )
            self._failures_in_a_row, answered = 0, True
            return reply
        finally:
            await self.throttle.leave(ticket, busy, answered)

    def _failed(self, status: int | None, words: str, wait: float | None) -> tuple[int | None, str, float | None]:
        # A server that says that it is busy is alive.
        self._failures_in_a_row += status not in BUSY
        if self._failures_in_a_row >= self.endpoint.failures_to_stop and self._dead is None:  # the first reason stands
            self._dead = (
                f"{self.endpoint.base_url}: {self._failures_in_a_row} tries in a row failed, the last one with "
                f"{status or 'no answer'}: {words}"
            )
        return status, words, wait

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EndpointError(self._dead)

    def _backoff(self, attempt: int) -> float:
        """Seconds: doubled at each try, half of it drawn, so that requests that failed together do not come back together."""
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
        return wait / 2 + self.random.uniform(0, wait / 2)


def read_key(variable: str | None) -> str | None:
    """The key that an environment variable holds; None for no variable.

    Raises:
        ValueError: the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"the environment variable {variable} is not set; put the key there")
    return key


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, at most `LONGEST_WAIT`; None without one.

    Example:
        >>> retry_after("3")
        3.0
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT)


def parse_json(text: str) -> Any:
    """The JSON object of an answer, which may stand in a code fence or between words.

    Raises:
        ValueError: there is none.

    Example:
        >>> parse_json('Here it is: {"a": 1}.')
        {'a': 1}
    """
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        try:
            return decoder.raw_decode(text, place)[0]
        except ValueError:
            place = text.find("{", place + 1)
    raise ValueError(f"there is no JSON object in the answer: {text[:SHOWN_BYTES]!r}")


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    described = {"name": "answer", "schema": dict(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _reply(values: dict[str, Any], attempt: int) -> Reply:
    choice = values["choices"][0]
    message = choice["message"]
    text, refusal = message.get("content"), message.get("refusal")
    if not isinstance(text, str) or not text.strip():
        text = refusal or ""
    reason = choice.get("finish_reason") or "stop"
    return Reply(
        text,
        values.get("model") or "not stated",
        reason,
        values.get("usage") or {},
        attempt,
        bool(refusal) or reason == "content_filter",
    )
