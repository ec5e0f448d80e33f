"""The client of endpoints: what is tried again, when it gives up, how many requests are in flight."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hicom_hf.evaluation.client import (
    FIRST_IN_FLIGHT,
    AnswerError,
    ChatClient,
    Endpoint,
    EndpointError,
    Throttle,
    parse_json,
    retry_after,
)

GOOD = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "model": "m",
    "usage": {"total_tokens": 3},
}


class Server:
    """Answers each request with what `script(number, body)` gives: status, values, headers."""

    def __init__(self, script):
        self.bodies, self.in_flight, self.most_in_flight = [], 0, 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                status, values, headers = script(number, body)
                data = values if isinstance(values, bytes) else json.dumps(values).encode()
                with lock:
                    outer.in_flight -= 1
                self.send_response(status)
                for name, value in {"Content-Length": len(data), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("hicom_hf.evaluation.client.FIRST_WAIT", 0.01)


def ask(url, count=1, schema=None, **endpoint):
    async def run():
        async with ChatClient(Endpoint(base_url=url, model="m", **endpoint)) as client:
            return await asyncio.gather(
                *(client.chat([{"role": "user", "content": "a"}], schema=schema) for _ in range(count))
            )

    return asyncio.run(run())


def test_an_answer_carries_what_the_server_states(serve):
    reply = ask(serve(lambda number, body: (200, GOOD, {})).url)[0]
    assert (reply.text, reply.model, reply.finish_reason, reply.attempts) == ("yes", "m", "stop", 1)
    assert reply.usage == {"total_tokens": 3}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_do_better_is_tried_again(serve, status):
    server = serve(lambda number, body: (status, {}, {}) if number < 2 else (200, GOOD, {}))
    assert ask(server.url)[0].attempts == 3


@pytest.mark.parametrize("garbage", [b"<html>", b"{}", b'{"choices": []}'])
def test_what_is_no_completion_is_tried_again(serve, garbage):
    server = serve(lambda number, body: (200, garbage if number == 0 else GOOD, {}))
    assert ask(server.url)[0].attempts == 2


def test_a_bad_request_is_not_tried_again(serve):
    server = serve(lambda number, body: (400, {"error": "too long"}, {}))
    with pytest.raises(AnswerError, match=r"400.*too long"):
        ask(server.url)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_ends_everything(serve, status):
    server = serve(lambda number, body: (status, {"error": "no such model"}, {}))
    with pytest.raises(EndpointError, match=rf"answers {status}.*no such model"):
        ask(server.url)


def test_tries_end(serve):
    server = serve(lambda number, body: (500, {"error": "oops"}, {}))
    with pytest.raises(AnswerError, match=r"3 tries failed, the last one with 500.*oops"):
        ask(server.url, retries=2)


def test_an_address_without_a_server_is_noticed():
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        ask("http://127.0.0.1:9/v1")


def test_a_server_that_only_fails_is_noticed(serve):
    server = serve(lambda number, body: (500, {"error": {"message": "out of order"}}, {}))
    with pytest.raises(EndpointError, match=r"5 tries in a row failed.*out of order"):
        ask(server.url, failures_to_stop=5)


def test_the_time_that_the_server_asks_for_is_waited(serve):
    server = serve(lambda number, body: (429, {}, {"Retry-After": "1"}) if number == 0 else (200, GOOD, {}))
    began = time.monotonic()
    ask(server.url)
    assert time.monotonic() - began >= 1.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("soon") is None and retry_after(None) is None


def test_a_hanging_answer_is_given_up(serve):
    asked_again = threading.Event()

    def script(number, body):
        asked_again.wait() if number == 0 else asked_again.set()
        return 200, GOOD, {}

    assert ask(serve(script).url, timeout=0.5)[0].attempts >= 2  # the first one cannot be answered before the second


def test_a_server_without_structured_output_is_asked_without(serve):
    server = serve(lambda number, body: (400, {}, {}) if "response_format" in body else (200, GOOD, {}))
    ask(server.url, schema={"type": "object"})
    assert [("response_format" in body) for body in server.bodies] == [True, False]


def test_never_more_than_the_limit_are_in_flight(serve):
    four = threading.Barrier(FIRST_IN_FLIGHT)  # none is answered before as many are there
    server = serve(lambda number, body: four.wait() is not None and (200, GOOD, {}))
    ask(server.url, count=10 * FIRST_IN_FLIGHT, max_in_flight=6)
    assert FIRST_IN_FLIGHT <= server.most_in_flight <= 6


def test_refusals_halve_the_number_in_flight_once_for_requests_that_were_sent_together():
    async def run():
        throttle = Throttle(32)
        throttle.limit = 16
        tickets = [await throttle.enter() for _ in range(8)]
        for ticket in tickets:
            await throttle.leave(ticket, busy=True)
        assert throttle.limit == 8
        await throttle.leave(await throttle.enter(), busy=True)
        assert throttle.limit == 4
        await throttle.leave(await throttle.enter(), busy=False)
        assert throttle.limit == 5
        await throttle.leave(await throttle.enter(), busy=False, answered=False)
        assert throttle.limit == 5

    asyncio.run(run())


def test_the_key_comes_from_the_environment(serve, monkeypatch):
    monkeypatch.delenv("HICOM_TEST_KEY", raising=False)
    with pytest.raises(ValueError, match="HICOM_TEST_KEY is not set"):
        ask("http://127.0.0.1:9/v1", api_key_variable="HICOM_TEST_KEY")


@pytest.mark.parametrize("text", ['{"a": 1}', '```json\n{"a": 1}\n```', 'So {b}: {"a": 1} it is'])
def test_json_is_found_between_words(text):
    assert parse_json(text) == {"a": 1}
    with pytest.raises(ValueError, match="no JSON object"):
        parse_json("none")


def test_failures_do_not_let_more_requests_in(serve, monkeypatch):
    monkeypatch.setattr("hicom_hf.evaluation.client.FIRST_WAIT", 0.01)
    server = serve(lambda number, body: (500, {"error": "x"}, {}))

    async def run():
        async with ChatClient(Endpoint(base_url=server.url, model="m", retries=5, failures_to_stop=100)) as client:
            with pytest.raises(AnswerError, match="6 tries failed, the last one with 500"):
                await client.chat([{"role": "user", "content": "?"}])
            assert client.throttle.limit == FIRST_IN_FLIGHT

    asyncio.run(run())


@pytest.mark.parametrize(("has_answered", "tries"), [(False, 3), (True, 6)])
def test_an_address_without_a_server_is_dead_sooner_if_none_ever_answered(serve, monkeypatch, has_answered, tries):
    monkeypatch.setattr("hicom_hf.evaluation.client.FIRST_WAIT", 0.01)
    server = serve(lambda number, body: (200, GOOD, {"Connection": "close"}))

    async def run():
        async with ChatClient(Endpoint(base_url=server.url, model="m", retries=5)) as client:
            if has_answered:
                await client.chat([{"role": "user", "content": "?"}])
            server.close()
            waits = []
            client._backoff = lambda attempt: waits.append(attempt) or 0.0
            with pytest.raises(EndpointError, match=f"{server.url} cannot be reached: All connection attempts failed"):
                await client.chat([{"role": "user", "content": "?"}])
            assert len(waits) == tries - 1

    asyncio.run(run())
