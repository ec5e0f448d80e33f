"""The HTTP side: an OpenAI-compatible server on an engine.

No address or content of media is written to a log or an error. Log lines are JSON objects.
"""

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders

from .engine import Engine
from .protocol import ChatCompletionRequest, chunk, completion, conditions, error_body, finish_reason, readable, usage
from .replicas import Replicas
from .requests import CLIENT_LEFT, EngineBusy, EngineClosed, RequestCancelled, RequestTooSlow, Ticket

logger = logging.getLogger("hicom.serve")

OPEN_PATHS = ("/health", "/ready")  # asked by supervisors, which have no key
MAX_ID_LENGTH = 128  # characters of a client's request id
SECONDS_BETWEEN_LOOKS = 0.25  # whether a client is still there
CLIENT_CLOSED = 499  # status in the log for a client that left; nginx's number


class HTTPError(Exception):
    """An error with its status, to be sent as OpenAI's clients expect it."""

    def __init__(self, status: int, message: str, kind: str, code: str | None = None, headers: dict | None = None):
        super().__init__(message)
        self.status, self.kind, self.code, self.headers = status, kind, code, headers or {}

    def response(self) -> JSONResponse:
        return JSONResponse(error_body(str(self), self.kind, self.code), self.status, self.headers)


@dataclass(frozen=True)
class ServerOptions:
    """Options of the HTTP side.

    Attributes:
        model_name: what clients call the model.
        api_key: that clients must send as a bearer token; None for none.
        default_max_tokens: of an answer, where the client names none.
        max_body_bytes: of a request, base64 videos included.
    """

    model_name: str
    api_key: str | None = None
    default_max_tokens: int = 256
    max_body_bytes: int = 64 * 2**20


def make_app(engine: Engine | Replicas, options: ServerOptions) -> FastAPI:
    """The application on an engine; the engine is closed with it.

    Args:
        engine: answers.
        options: of the HTTP side.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.ready = asyncio.ensure_future(asyncio.to_thread(engine.warm))
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="hicom serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    server = _Server(app, engine, options)
    app.get("/health")(server.health)
    app.get("/ready")(server.ready)
    app.get("/metrics")(server.metrics)
    app.get("/v1/models")(server.models)
    app.post("/v1/chat/completions")(server.chat_completions)
    app.add_exception_handler(HTTPError, _known_error)
    for status in (404, 405):
        app.add_exception_handler(status, _no_such_path)
    app.add_middleware(_Around, options=options)
    return app


class _Around:
    """Around every request: its id, the key, one log line, and errors that nobody expected. Plain ASGI, so that a client's
    leaving reaches the answer.
    """

    def __init__(self, app: Callable, options: ServerOptions):
        self.app, self.options = app, options

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, started, status = Request(scope), time.monotonic(), None
        request.state.id, request.state.log = _request_id(request), {}

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request.state.id
            await send(message)

        try:
            if self._has_key(request):
                await self.app(scope, receive, send_with_id)
            else:
                await _wrong_key().response()(scope, receive, send_with_id)
        except Exception as error:  # answered as a failure of the server; the traceback goes to the log
            logger.error("a request failed", exc_info=error, extra={"fields": {"id": request.state.id}})
            if status is None:
                await _failure().response()(scope, receive, send_with_id)
        finally:
            _log(request, status or CLIENT_CLOSED, started)

    def _has_key(self, request: Request) -> bool:
        if self.options.api_key is None or request.url.path in OPEN_PATHS:
            return True
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self.options.api_key}".encode())


class _Server:
    """What is answered under each path."""

    def __init__(self, app: FastAPI, engine: Engine | Replicas, options: ServerOptions):
        self.app, self.engine, self.options = app, engine, options
        self.started = int(time.time())
        self._num_arriving = 0  # bodies in memory that the engine does not count yet

    async def health(self) -> Response:
        return JSONResponse(
            {"status": "ok" if self.engine.is_alive else "closing"}, 200 if self.engine.is_alive else 503
        )

    async def ready(self) -> Response:
        starting = self.app.state.ready
        is_ready = self.engine.is_alive and starting.done() and starting.exception() is None
        return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)

    async def metrics(self) -> Response:
        text = await asyncio.to_thread(self.engine.metrics)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self) -> Response:
        model = {"id": self.options.model_name, "object": "model", "created": self.started, "owned_by": "hicom_hf"}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat_completions(self, request: Request) -> Response:
        body = await self._body(request)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

        def on_text(number: int, text: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, (number, text))

        try:
            asked = await asyncio.to_thread(body.engine_request, self.options.default_max_tokens)
            ticket = self.engine.submit(asked, on_text)
        except Exception as error:
            raise _http_error(error) from error
        request.state.log.update(videos=len(asked.videos), stream=bool(body.stream))
        done = asyncio.wrap_future(ticket.future)
        done.add_done_callback(lambda _: pieces.put_nowait(None))  # after all pieces, which came before
        head = {"id": f"chatcmpl-{request.state.id}", "created": int(time.time()), "model": self.options.model_name}
        # An error before the answer begins has its own status, in a stream as well.
        first = await _unless_gone(pieces.get() if body.stream else asyncio.wait([done]), ticket, request)
        if done.done() and (error := done.exception()) is not None:
            raise _http_error(error) from error
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            events = _events(ticket, done, head, pieces, first, with_usage, request.state.log)
            return _AnswerStream(ticket, events)
        request.state.log.update(_counts(done.result()))
        return JSONResponse(completion(done.result(), head))

    async def _body(self, request: Request) -> ChatCompletionRequest:
        if not self.engine.has_room(self._num_arriving):  # before a large body is read
            raise _http_error(self.engine.refusal())
        content, limit, seconds = bytearray(), self.options.max_body_bytes, self.engine.limits.max_seconds
        self._num_arriving += 1
        try:
            async with asyncio.timeout(seconds):  # a body that never ends would hold up the end of the server as well
                async for piece in request.stream():
                    content += piece
                    if len(content) > limit:
                        raise _bad(
                            f"the request has more than {limit} bytes, the limit; name large videos by URL", 413
                        )
        except TimeoutError:
            raise _bad(f"the request took longer than {seconds:g} s to arrive", 408) from None
        finally:
            self._num_arriving -= 1
        try:
            body = await asyncio.to_thread(ChatCompletionRequest.model_validate_json, content)
        except ValidationError as error:
            raise _bad(readable(error)) from None
        if body.model not in (None, "", self.options.model_name):
            raise HTTPError(
                404,
                f"there is no model {body.model[:100]!r} here, only {self.options.model_name!r}",
                "invalid_request_error",
                "model_not_found",
            )
        return body


class _AnswerStream(StreamingResponse):
    """Sends the events of an answer; a client that leaves ends the answer, also before its first event was taken."""

    def __init__(self, ticket: Ticket, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.ticket = ticket

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.cancel()


async def _events(
    ticket: Ticket, done: asyncio.Future, head: dict, pieces: asyncio.Queue, piece: Any, with_usage: bool, log: dict
) -> AsyncIterator[str]:
    """The events of an answer.

    Args:
        ticket, done: the request, and its future.
        head: id, created and model.
        pieces: (number of the answer, text) as they come, and None at the end.
        piece: the first of them.
        with_usage: whether the last event counts tokens.
        log: what the log line of the request will say.
    """
    for number in range(len(ticket.texts)):
        yield _event(chunk(head, number, {"role": "assistant", "content": ""}))
    while piece is not None:
        yield _event(chunk(head, piece[0], {"content": piece[1]}))
        piece = await pieces.get()
    if (error := done.exception()) is not None:  # the status was sent already: the error is an event
        wrong = _http_error(error)
        yield _event(error_body(str(wrong), wrong.kind, wrong.code))
        return
    result = done.result()
    log.update(_counts(result))
    for number, stopped in enumerate(result.stopped):
        yield _event(chunk(head, number, {}, finish_reason(stopped)))
    if with_usage:
        counted = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage(result)}
        yield _event({**counted, "hicom": conditions(result)})
    yield "data: [DONE]\n\n"


async def _unless_gone(waiting: Awaitable, ticket: Ticket, request: Request) -> Any:
    """The result of an awaitable; a client that leaves meanwhile ends its answer."""
    task = asyncio.ensure_future(waiting)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=SECONDS_BETWEEN_LOOKS)
            if not task.done() and await request.is_disconnected():
                raise HTTPError(CLIENT_CLOSED, CLIENT_LEFT, "client_closed")
        return task.result()
    except BaseException:
        ticket.cancel()
        task.cancel()
        raise


def _http_error(error: BaseException) -> HTTPError:
    """An error of the engine as its status."""
    if isinstance(error, EngineBusy):
        headers = {"Retry-After": str(error.retry_after)}
        return HTTPError(429, str(error), "rate_limit_error", "queue_full", headers)
    if isinstance(error, EngineClosed):
        return HTTPError(503, str(error), "server_error", "closing", {"Retry-After": "5"})
    if isinstance(error, RequestTooSlow):
        return HTTPError(504, str(error), "server_error", "timeout")
    if isinstance(error, RequestCancelled):
        return HTTPError(CLIENT_CLOSED, str(error), "client_closed")
    if isinstance(error, ValidationError):
        return _bad(readable(error))
    if isinstance(error, (ValueError, TypeError)):
        return _bad(str(error))
    return _failure()


async def _known_error(request: Request, error: Exception) -> Response:
    return cast(HTTPError, error).response()  # it is registered for these alone


def _failure() -> HTTPError:
    return HTTPError(500, "the server failed; its log says why", "server_error")


def _wrong_key() -> HTTPError:
    message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`"
    return HTTPError(401, message, "invalid_request_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"})


def _bad(message: str, status: int = 400) -> HTTPError:
    return HTTPError(status, message, "invalid_request_error")


def _no_such_path(request: Request, error: Any) -> Response:
    known = "GET /v1/models, POST /v1/chat/completions, GET /health, GET /ready and GET /metrics"
    message = f"{request.method} {request.url.path[:200]} is not served here; there are {known}"
    return HTTPError(error.status_code, message, "invalid_request_error", "unknown_url", error.headers).response()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _request_id(request: Request) -> str:
    """The client's id if it is a plain word, else a new one."""
    given = request.headers.get("x-request-id", "")
    is_word = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    return given if is_word and len(given) <= MAX_ID_LENGTH else uuid.uuid4().hex


def _counts(result: Any) -> dict[str, Any]:
    tokens = usage(result)
    return {
        "prompt_tokens": tokens["prompt_tokens"],
        "new_tokens": tokens["completion_tokens"],
        "cached_tokens": tokens["prompt_tokens_details"]["cached_tokens"],
        "first_token_seconds": round(result.first_token_seconds, 4),
    }


def _log(request: Request, status: int, started: float) -> None:
    fields = {
        "id": request.state.id,
        "method": request.method,
        "path": request.url.path[:200],
        "status": status,
        "seconds": round(time.monotonic() - started, 4),
        **request.state.log,
    }
    logger.info("request", extra={"fields": fields})


class JSONLines(logging.Formatter):
    """Log records as JSON objects, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname.lower(), "message": record.getMessage()}
        line.update(record.__dict__.get("fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Write this process's log to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
