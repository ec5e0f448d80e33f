"""The server: OpenAI's interface, what it refuses, and what strangers cannot reach through it."""

import asyncio
import base64
import concurrent.futures
import json
import logging
import socket
import threading
import time

import pytest
from PIL import Image
from test_media_access import Server as MediaServer
from video_files import write_video

from hicom_hf.assets import example_videos
from hicom_hf.inference import HiComSession
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.frame_tiles_hicom import FrameTiles
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.processors.media_bounds_hicom import MediaBounds
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.requests import Limits
from hicom_hf.shapes import Scene, render
from hicom_hf.shapes.writing import write_video as write_film

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from fastapi.testclient import TestClient

from hicom_hf.serving.app import JSONLines, ServerOptions, make_app

QUESTION = "What colour is the ring?"
PATH = "/v1/chat/completions"


def data_url(path):
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def user(text, *urls):
    return {
        "role": "user",
        "content": [
            *({"type": "video_url", "video_url": {"url": url}} for url in urls),
            {"type": "text", "text": text},
        ],
    }


def body(*messages, **options):
    return {"model": "tiny", "messages": list(messages), "max_tokens": 8, **options}


def open_client(session, access=None, limits=None, bounds=None, **options):
    engine = Engine(session, access=access, bounds=bounds, limits=limits, num_workers=0)
    client = TestClient(make_app(engine, ServerOptions("tiny", **options)), raise_server_exceptions=False)
    client.engine = engine
    return client


@pytest.fixture(scope="module")
def session():
    return HiComSession.load(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def client(session):
    with open_client(session) as client:
        yield client


ENDLESS = 10**8  # tokens


@pytest.fixture
def endless(make_endless):
    """A session whose model ends an answer neither by itself nor, in the life of a test, by its length."""
    return make_endless(HiComSession.load(dtype="float32", device="cpu"))


@pytest.fixture
def media_server():
    server = MediaServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def urls():
    return [data_url(path) for path in example_videos()]


def events(response):
    lines = [line for line in response.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines[:-1]]


def streamed(response):
    return "".join(choice["delta"].get("content", "") for event in events(response) for choice in event["choices"])


def message(response):
    return response.json()["error"]["message"]


# Answers -------------------------------------------------------------------------------------------------------------------


def test_an_answer_is_that_of_the_session(client, session, urls):
    alone = session.open(example_videos()[0]).ask(QUESTION, max_new_tokens=8)
    answer = client.post(PATH, json=body(user(QUESTION, urls[0]))).json()
    [choice] = answer["choices"]
    assert choice["message"]["content"] == alone.answer and choice["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == alone.num_prompt_tokens
    assert answer["usage"]["completion_tokens"] == alone.num_new_tokens
    assert answer["hicom"]["instruction"] == QUESTION
    again = client.post(PATH, json=body(user("Where is it?", urls[0]))).json()["usage"]["prompt_tokens_details"]
    assert again["cached_tokens"] == again["video_tokens"] > 0


def test_a_stream_says_what_the_whole_answer_says(client, urls):
    asked = body(user("Describe the picture.", urls[0]), max_tokens=30)
    whole = client.post(PATH, json=asked).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = client.post(PATH, json={**asked, **options})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert streamed(response) == whole["choices"][0]["message"]["content"]
    *_, last, counted = events(response)
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert counted["choices"] == [] and counted["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all("usage" not in event for event in events(client.post(PATH, json={**asked, "stream": True})))


def test_several_turns_and_videos_are_one_chat(client, urls):
    turns = [user("What is this?", urls[0]), {"role": "assistant", "content": "shapes"}, user(QUESTION, urls[1])]
    answer = client.post(PATH, json=body({"role": "system", "content": "Be brief."}, *turns)).json()
    assert len(answer["hicom"]["frame_times"]) == 2 and answer["hicom"]["instruction"] == QUESTION


def test_every_form_of_media_gives_the_same_answer(client, urls):
    payload = urls[0].partition(",")[2]
    answers = set()
    for part in (
        {"type": "video_url", "video_url": urls[0]},
        {"type": "input_video", "input_video": {"url": urls[0]}},
        {"type": "input_video", "input_video": {"file_data": payload}},
        {"type": "file", "file": {"filename": "a.mp4", "file_data": urls[0]}},
        {"type": "file", "file": {"file_data": payload}},
    ):
        asked = {"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}
        answers.add(client.post(PATH, json=body(asked)).json()["choices"][0]["message"]["content"])
    assert len(answers) == 1


def test_an_image_is_a_video_of_one_frame(client, session, tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    url = "data:image/png;base64," + base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    part = {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
    asked = {"role": "user", "content": [part, {"type": "text", "text": "What colour?"}]}
    answer = client.post(PATH, json=body(asked, mm_processor_kwargs={"num_frames": 8})).json()
    assert answer["usage"]["prompt_tokens_details"]["video_tokens"] == session.model.config.num_visual_tokens(1)


def test_extras_choose_frames_and_the_instruction(client, urls):
    extras = {"num_frames": 3, "start": 1.0, "instruction": "the red ring"}
    answer = client.post(PATH, json=body(user(QUESTION, urls[0]), mm_processor_kwargs=extras)).json()
    [times] = answer["hicom"]["frame_times"]
    assert len(times) == 3 and times[0] >= 1 and answer["hicom"]["instruction"] == "the red ring"


def test_a_question_can_choose_its_frames(client, urls):
    extras = {"num_frames": 16, "select": "question", "frames": 4}
    for stream in (False, True):
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        response = client.post(PATH, json=body(user(QUESTION, urls[0]), mm_processor_kwargs=extras, **options))
        told = (events(response)[-1] if stream else response.json())["hicom"]
        [record] = told["selection"]
        assert record["num_candidates"] == 16 and len(record["frames"]) == 4 and record["reason"]
        assert told["frame_times"] == [record["times"]] and told["instruction"] == QUESTION
    assert "hicom_candidate_bytes" in client.get("/metrics").text


def test_a_question_can_choose_among_tiles_of_a_video_or_an_image(client, session, tmp_path):
    frames = render(Scene.from_seed(3, split="test"), num_frames=8, size=(80, 144))[0]
    path = write_film(tmp_path / "wide.mp4", frames, fps=4)
    Image.fromarray(frames[0]).save(tmp_path / "wide.png")
    picture = "data:image/png;base64," + base64.b64encode((tmp_path / "wide.png").read_bytes()).decode()
    part = {"type": "image_url", "image_url": {"url": picture}}
    alone = {
        "film": session.open(path, tiles=FrameTiles(), num_frames=4).ask(QUESTION, max_new_tokens=8),
        "image": session.open(tmp_path / "wide.png", tiles=FrameTiles()).ask(QUESTION, max_new_tokens=8),
    }
    extras = {"num_frames": 4, "tiles": [1]}
    film = user(QUESTION, data_url(path))["content"][0]
    for name, content in (("film", film), ("image", part)):
        asked = {"role": "user", "content": [content, {"type": "text", "text": QUESTION}]}
        answer = client.post(PATH, json=body(asked, mm_processor_kwargs=extras)).json()
        assert answer["choices"][0]["message"]["content"] == alone[name].answer
        [record] = answer["hicom"]["tiles"]
        assert record == json.loads(json.dumps(alone[name].tiles.to_dict()))
        assert record["zoom"] == 1 and len(record["tiles"][0]["box"]) == 4 and answer["hicom"]["selection"] == [None]
    asked = {"role": "user", "content": [film, {"type": "text", "text": QUESTION}]}
    for own, scored in (({"score_tiles": False}, False), ({}, True), ({"score_tiles": True}, True)):
        both = {"num_frames": 8, "select": "question", "frames": 4, "tiles": [1], **own}
        answer = client.post(PATH, json=body(asked, mm_processor_kwargs=both)).json()
        how = {"selection": FrameSelection(num_frames=4), "tiles": FrameTiles(score_candidates=scored)}
        expected = session.open(path, num_frames=8, **how).ask(QUESTION, max_new_tokens=8)
        assert answer["choices"][0]["message"]["content"] == expected.answer
        for name in ("selection", "tiles"):
            assert answer["hicom"][name] == [json.loads(json.dumps(getattr(expected, name).to_dict()))]


def test_n_answers_and_a_seed_can_be_asked_for(client, urls):
    asked = body(user("Describe the picture.", urls[0]), n=3, temperature=1.5, seed=1, max_tokens=20)
    first, second = (client.post(PATH, json=asked).json() for _ in range(2))
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2] and first["choices"] == second["choices"]
    assert len({choice["message"]["content"] for choice in first["choices"]}) > 1


def test_a_stop_text_and_a_length_end_answers(client, urls):
    whole = client.post(PATH, json=body(user("Describe the picture.", urls[0]), max_tokens=30)).json()
    word = whole["choices"][0]["message"]["content"].split()[2]
    cut = client.post(PATH, json=body(user("Describe the picture.", urls[0]), max_tokens=30, stop=[word])).json()
    assert word not in cut["choices"][0]["message"]["content"] and cut["choices"][0]["finish_reason"] == "stop"
    short = client.post(PATH, json=body(user("Describe the picture.", urls[0]), max_tokens=1)).json()
    assert short["choices"][0]["finish_reason"] == "length"


# What is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tools": [{"type": "function"}]}, "tools is supported only as []"),
        ({"logprobs": True}, "logprobs is supported only as False"),
        ({"response_format": {"type": "json_object"}}, "response_format is supported only as"),
        ({"top_k": 5}, "the field 'top_k' is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is supported only as 0"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 5000}, "max_tokens is 5000, more than the 1024 that this server allows"),
        ({"max_completion_tokens": 9}, "max_tokens and max_completion_tokens contradict each other"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"n": 100}, "n is 100, more than the 4"),
        ({"stop": ["a"] * 5}, "stop: Value error, at most 4 stop texts"),
        ({"stream_options": {"include_usage": True}}, "stream_options is for stream: true"),
        ({"mm_processor_kwargs": {"framez": 3}}, "mm_processor_kwargs.framez: Extra inputs are not permitted"),
        ({"mm_processor_kwargs": {"tiles": []}}, "mm_processor_kwargs.tiles"),
        ({"mm_processor_kwargs": {"tiles": True}}, "mm_processor_kwargs.tiles"),
        ({"mm_processor_kwargs": {"tiles": [True]}}, "mm_processor_kwargs.tiles"),
        ({"mm_processor_kwargs": {"tiles": [0]}}, "mm_processor_kwargs.tiles: zooms must be"),
        ({"mm_processor_kwargs": {"frames": 3}}, "mm_processor_kwargs.frames goes with select"),
        ({"mm_processor_kwargs": {"tiles": [1], "score_tiles": True}}, "score_tiles goes with select and tiles"),
        ({"mm_processor_kwargs": {"tiles": [1], "score_tiles": False}}, "score_tiles goes with select and tiles"),
        ({"mm_processor_kwargs": {"select": "question"}}, "select takes frames or max_video_tokens, one of them"),
        ({"mm_processor_kwargs": {"select": "question", "frames": 500}}, "frames is 500, more than the 128"),
        ({"mm_processor_kwargs": {"num_frames": 500}}, "num_frames is 500, more than the 128"),
        ({"mm_processor_kwargs": {"num_frames": 5, "fps": 1}}, "num_frames=5 and fps=1.0 both say"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": " "}]}, "the question is empty"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [{"role": "user"}]}, "a message of 'user' has no content"),
        ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, "the last message must be the user's"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "parts of type 'input_audio' are not",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "a part of type 'video_url' holds"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "?"}}]}]},
            "neither base64",
        ),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_it(client, urls, change, expected):
    response = client.post(PATH, json={**body(user("a", urls[0])), **change})
    assert response.status_code == 400 and expected in message(response)
    assert response.json()["error"]["type"] == "invalid_request_error" and urls[0][30:60] not in response.text


def test_what_changes_no_answer_is_taken(client, urls):
    neutral = {
        "user": "me",
        "logprobs": False,
        "frequency_penalty": 0,
        "tools": [],
        "metadata": {"a": "b"},
        "store": False,
    }
    assert client.post(PATH, json=body(user(QUESTION, urls[0]), **neutral)).status_code == 200


def test_no_json_another_model_and_another_path_are_named(client):
    assert "Invalid JSON" in message(client.post(PATH, content=b"{"))
    missing = client.post(PATH, json={**body(user("a")), "model": "gpt"})
    assert missing.status_code == 404 and "no model 'gpt' here, only 'tiny'" in message(missing)
    for response, status in ((client.post("/v1/embeddings"), 404), (client.get(PATH), 405)):
        assert response.status_code == status and f"{response.request.url.path} is not served here" in message(
            response
        )
    assert client.get(PATH).headers["allow"] == "POST"


def test_a_large_request_is_refused(session):
    with open_client(session, max_body_bytes=1000) as client:
        response = client.post(PATH, json=body(user("a" * 2000)))
    assert response.status_code == 413 and "more than 1000 bytes" in message(response)


def test_a_request_that_does_not_arrive_is_408(session):
    """Its client sends nothing and stays; the engine is not asked."""
    engine = Engine(session, limits=Limits(max_seconds=0.05), num_workers=0)
    app = make_app(engine, ServerOptions("tiny"))

    async def ask():
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "query_string": b"", "app": app}
        await app({**scope, "http_version": "1.1"}, asyncio.Event().wait, send)
        return sent

    start, content = asyncio.run(ask())
    engine.close()
    assert start["status"] == 408 and b"took longer than 0.05 s to arrive" in content["body"]


def test_requests_that_are_still_arriving_count_as_waiting(session):
    """Otherwise many clients that send slowly would fill the memory."""
    engine = Engine(session, limits=Limits(max_queue=1), num_workers=0)
    app = make_app(engine, ServerOptions("tiny"))
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "query_string": b"", "app": app}
    scope["http_version"] = "1.1"

    async def ask():
        sent, reading = [], asyncio.Event()

        async def never():
            reading.set()
            await asyncio.Event().wait()

        async def ignore(message):
            pass

        async def send(message):
            sent.append(message)

        first = asyncio.create_task(app(dict(scope), never, ignore))
        await reading.wait()
        await app(dict(scope), asyncio.Event().wait, send)
        first.cancel()
        return sent

    start, _ = asyncio.run(ask())
    engine.close()
    assert start["status"] == 429


def test_a_key_is_asked_for(session):
    with open_client(session, api_key="secret") as client:
        assert client.get("/v1/models").status_code == 401
        wrong = client.get("/v1/models", headers={"Authorization": "Bearer other"})
        assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
        right = client.get("/v1/models", headers={"Authorization": "Bearer secret"})
        assert [model["id"] for model in right.json()["data"]] == ["tiny"]
        assert client.get("/metrics").status_code == 401 and client.get("/health").status_code == 200


def test_a_full_queue_is_429_with_retry_after(endless):
    with open_client(endless, limits=Limits(max_queue=2)) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        endless.lock.acquire()
        running = [pool.submit(client.post, PATH, json=body(user("a"))) for _ in range(2)]
        while client.engine.num_inside < 2:
            time.sleep(0.01)
        refused = client.post(PATH, json=body(user("a")))
        endless.lock.release()
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert [one.result().status_code for one in running] == [200, 200]


@pytest.mark.parametrize(("stream", "leaves_at"), [(True, "a word"), (True, "the start"), (False, "the start")])
def test_a_client_that_leaves_ends_its_answer(endless, stream, leaves_at):
    """The answer can only be ended by its client's leaving; what is waited for has no deadline."""
    engine = Engine(endless, limits=Limits(max_new_tokens=ENDLESS, max_seconds=1e9), num_workers=0)
    app = make_app(engine, ServerOptions("tiny"))
    content = json.dumps(body(user("a"), max_tokens=ENDLESS, stream=stream)).encode()

    async def ask():
        sent, left = [], asyncio.Event()
        if leaves_at == "the start":
            left.set()
        messages = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def receive():
            message = next(messages, None)
            if message is None:
                await left.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message):
            sent.append(message)
            if b'"content": "' in message.get("body", b"").replace(b'"content": ""', b""):
                left.set()

        scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "query_string": b"", "app": app}
        await app({**scope, "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)
        await asyncio.to_thread(engine.close)  # waits for the answer
        return sent

    sent = asyncio.run(ask())
    assert engine.statistics.cancelled == 1 and engine.statistics.answered == engine.statistics.failed == 0
    assert engine.statistics.new_tokens < ENDLESS
    assert leaves_at != "a word" or len(sent) > 2


def test_a_failure_of_the_model_is_500_without_details(session, monkeypatch, urls):
    def fail(*args, **kwargs):
        raise RuntimeError("a secret of the machine")

    with open_client(session) as client:
        monkeypatch.setattr(session.model, "generate", fail)
        for stream in (False, True):
            response = client.post(PATH, json=body(user(QUESTION, urls[0]), stream=stream))
            assert response.status_code == 500 and "secret" not in response.text


# What strangers cannot reach -----------------------------------------------------------------------------------------------


def test_private_servers_are_not_asked(client, media_server):
    for url in (
        f"http://{media_server.address}/file",
        f"http://localhost:{media_server.server_address[1]}/file",
        "http://[::1]/file",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/file",
    ):
        response = client.post(PATH, json=body(user("a", url)))
        assert response.status_code == 400 and "the video: " in message(response), url
    assert media_server.paths() == []


def test_a_name_that_is_bound_to_another_address_later_gains_nothing(session, media_server, monkeypatch):
    """The name is public when it is judged and this machine's afterwards; the connection goes to what was judged."""
    addresses, connected = iter(["8.8.8.8", "127.0.0.1"]), []

    def resolve(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(addresses), port))]

    def connect(address, **options):
        connected.append(address[0])
        raise ConnectionRefusedError("no way out of the test")

    monkeypatch.setattr(socket, "create_connection", connect)
    url = f"http://rebinding.example:{media_server.server_address[1]}/file?signature=SECRET"
    with open_client(session, access=MediaAccess.guarded(resolve=resolve)) as client:
        first, second = (client.post(PATH, json=body(user("a", url))) for _ in range(2))
    assert first.status_code == 400 and connected == ["8.8.8.8"]
    assert second.status_code == 400 and "127.0.0.1, which is not a public address" in message(second)
    assert media_server.paths() == [] and "SECRET" not in first.text + second.text


def open_to(media_server, **options):
    """Access to the media server alone, which stands for a public one."""
    return MediaAccess.guarded(allowed_private_hosts=["127.0.0.1"], **options)


def test_a_video_is_fetched_from_a_server_and_shares_features_with_its_data_url(session, media_server, urls):
    media_server.content = example_videos()[0].read_bytes()
    session.cache.clear()
    with open_client(session, access=open_to(media_server)) as client:
        first, second = (
            client.post(PATH, json=body(user(QUESTION, url))).json()
            for url in (f"http://{media_server.address}/content", urls[0])
        )
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    details = [answer["usage"]["prompt_tokens_details"] for answer in (first, second)]
    assert [one["cached_tokens"] for one in details] == [0, details[1]["video_tokens"]]


def test_an_answer_that_takes_too_long_is_504(endless):
    with open_client(endless, limits=Limits(max_new_tokens=ENDLESS, max_seconds=0.2)) as client:
        response = client.post(PATH, json=body(user("a"), max_tokens=ENDLESS))
    assert response.status_code == 504 and "took longer than 0.2 s" in message(response)


def test_a_redirect_to_a_private_server_is_not_followed(session, media_server):
    with open_client(session, access=open_to(media_server)) as client:
        url = f"http://{media_server.address}/redirect/http://localhost:PORT/file"
        response = client.post(PATH, json=body(user("a", url)))
    assert response.status_code == 400 and "not a public address" in message(response)
    assert not any(path == "/file" for path in media_server.paths())


def test_a_stream_without_an_end_is_cut(session, media_server):
    access = open_to(media_server, max_bytes=10**6, total_seconds=5.0)
    with open_client(session, access=access) as client:
        response = client.post(PATH, json=body(user("a", f"http://{media_server.address}/endless/")))
    assert response.status_code == 400 and "more than 1000000 bytes" in message(response)


@pytest.mark.parametrize("name", ["hls", "dash", "concat", "sdp"])
def test_a_playlist_from_a_server_opens_nothing_else(session, media_server, name):
    canary = f"http://{media_server.address}/canary"
    playlist = {
        "hls": f"#EXTM3U\n#EXTINF:5,\n{canary}\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{canary}</BaseURL></MPD>',
        "concat": "ffconcat version 1.0\nfile '/etc/passwd'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }[name]
    media_server.content = playlist.encode()
    with open_client(session, access=open_to(media_server)) as client:
        response = client.post(PATH, json=body(user("a", f"http://{media_server.address}/content")))
    assert response.status_code == 400 and "root:" not in response.text
    assert media_server.paths() == ["/content"]


def test_a_video_of_too_many_pixels_or_seconds_is_refused(session, tmp_path):
    url = data_url(write_video(tmp_path / "a.mp4", 16))
    for bounds, expected in (
        (MediaBounds(max_pixels=100), "more than MediaBounds.max_pixels=100"),
        (MediaBounds(max_seconds=1), "the length in seconds is"),
    ):
        with open_client(session, bounds=bounds) as client:
            response = client.post(PATH, json=body(user("a", url)))
        assert response.status_code == 400 and expected in message(response), response.text


def test_local_files_are_read_where_they_are_allowed_only(session, client, tmp_path):
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed, other):
        folder.mkdir()
        write_video(folder / "a.mp4", 8)
    (allowed / "link.mp4").symlink_to(other / "a.mp4")
    with open_client(session, access=MediaAccess.guarded(allowed_local_media_path=allowed)) as opened:
        for asked, path, status in (
            (opened, allowed / "a.mp4", 200),
            (opened, other / "a.mp4", 400),
            (opened, allowed / "link.mp4", 400),
            (opened, allowed / ".." / "other" / "a.mp4", 400),
            (client, allowed / "a.mp4", 400),
        ):
            assert asked.post(PATH, json=body(user("a", f"file://{path}"))).status_code == status, path


def test_only_listed_domains_are_asked(session):
    with open_client(session, access=MediaAccess.guarded(allowed_media_domains=["example.org"])) as client:
        response = client.post(PATH, json=body(user("a", "https://example.com/a.mp4")))
    assert "the host 'example.com' is not among allowed_media_domains" in message(response)


# Operation -----------------------------------------------------------------------------------------------------------------


def test_health_readiness_and_metrics(client, urls):
    client.post(PATH, json=body(user(QUESTION, urls[0])))
    assert client.get("/health").json() == {"status": "ok"} and client.get("/ready").status_code == 200
    metrics = client.get("/metrics").text
    for name in (
        "hicom_requests_total",
        "hicom_cache_bytes",
        "hicom_first_token_seconds_bucket",
        "hicom_fetched_bytes",
    ):
        assert name in metrics


def test_requests_have_ids_and_logs_hold_no_media(client, urls, caplog):
    caplog.set_level(logging.INFO, "hicom.serve")
    given = client.post(PATH, json=body(user(QUESTION, urls[0])), headers={"x-request-id": "my-id_1"})
    assert given.headers["x-request-id"] == "my-id_1" and given.json()["id"] == "chatcmpl-my-id_1"
    for bad in ("a b", "x" * 200, 'a"}'):
        assert client.get("/health", headers={"x-request-id": bad}).headers["x-request-id"] != bad
    client.post(PATH, json=body(user(QUESTION, "http://127.0.0.1/secret-name?key=SECRET")))
    lines = [JSONLines().format(record) for record in caplog.records if record.name == "hicom.serve"]
    first = json.loads(lines[0])
    assert first["id"] == "my-id_1" and first["status"] == 200 and first["new_tokens"] > 0 and first["videos"] == 1
    assert not any(word in line for line in lines for word in ("base64", "SECRET", "secret-name", urls[0][40:80]))
