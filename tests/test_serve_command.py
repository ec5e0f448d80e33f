"""`hicom serve` as a process of its own: real sockets, the openai client, a client that leaves, SIGTERM."""

import base64
import json
import re
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from started import Started, hicom

from hicom_hf.assets import example_videos
from hicom_hf.cli.arguments import media_access, media_bounds
from hicom_hf.cli.main import build_parser, main
from hicom_hf.hub import save_hub_folder
from hicom_hf.inference import HiComSession

pytest.importorskip("fastapi", reason="the extra serve is not installed")
openai = pytest.importorskip("openai")

QUESTION = "What colour is the ring?"
ENDLESS = 10**8  # tokens
URL = "data:video/mp4;base64," + base64.b64encode(example_videos()[0].read_bytes()).decode()


def chat(question, url=URL):
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


class Server(Started):
    """A running `hicom serve`."""

    def __init__(self, *arguments):
        super().__init__(hicom, "serve", "--port", 0, "--workers", 0, *arguments)
        self.lines = []
        for line in self.err:
            self.lines.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                self.address = found[1]
                return
        raise AssertionError("".join(self.lines))

    def get(self, path):
        with urllib.request.urlopen(self.address + path, timeout=600) as response:
            return response.read().decode()

    def metric(self, name):
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.MULTILINE)[1])

    def client(self, **options):
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=options.pop("api_key", "none"), timeout=600, **options
        )

    def terminate(self):
        self.send(signal.SIGTERM)

    def end(self):
        self.lines += self.err.read().splitlines()
        return self.wait()


@pytest.fixture(scope="module")
def server():
    """hicom-tiny, with a key; no model is named."""
    with Server("--api-key", "secret", "--dtype", "float32", "--device", "cpu") as server:
        yield server


@pytest.fixture
def endless(tmp_path, make_endless):
    """A model that ends an answer neither by itself nor, in the life of a test, by its length or the time."""
    session = make_endless(HiComSession.load(dtype="float32", device="cpu"))
    save_hub_folder(session.model, session.processor, tmp_path / "model")
    limits = ("--max-new-tokens", ENDLESS, "--max-seconds", 10**6)
    with Server(tmp_path / "model", "--served-model-name", "endless", *limits) as server:
        yield server


def test_the_openai_client_asks_and_streams(server):
    client = server.client(api_key="secret")
    alone = HiComSession.load(dtype="float32", device="cpu").open(example_videos()[0]).ask(QUESTION)
    assert [model.id for model in client.models.list()] == ["hicom-tiny"]
    answer = client.chat.completions.create(model="hicom-tiny", messages=chat(QUESTION))
    assert answer.choices[0].message.content == alone.answer
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="hicom-tiny", messages=chat(QUESTION), **options))
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == alone.answer
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    extras = {"mm_processor_kwargs": {"num_frames": 2, "instruction": "the ring"}}
    few = client.chat.completions.create(model="hicom-tiny", messages=chat(QUESTION), extra_body=extras)
    assert (
        few.model_extra["hicom"]["instruction"] == "the ring" and few.usage.prompt_tokens < answer.usage.prompt_tokens
    )


def test_the_dockerfile_starts_the_server():
    text = (Path(__file__).parents[1] / "Dockerfile").read_text()
    command = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
    args = build_parser().parse_args([*command[1:], "hicom-7b"])
    assert command[0] == "hicom" and (args.host, args.model, args.port) == ("0.0.0.0", "hicom-7b", 8000)
    assert "http://127.0.0.1:8000/ready" in text and "EXPOSE 8000" in text


@pytest.mark.parametrize(("variable", "options"), [("", []), ("secret", ["--api-key", ""]), ("", ["--api-key", " "])])
def test_an_empty_key_is_refused(variable, options, monkeypatch, capsys):
    """As `--api-key "$KEY"` is without the variable: it must not open the server."""
    monkeypatch.setenv("HICOM_API_KEY", variable)
    assert main(["serve", *options]) == 2
    assert "argument --api-key: is empty" in capsys.readouterr().err


def test_media_options_take_lists_and_repetitions(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    folders = [f"--allowed-local-media-path={tmp_path / name}" for name in ("a", "b")]
    domains = ["--allowed-media-domains", "example.org", "example.com", "--allowed-media-domains", "example.net"]
    args = build_parser().parse_args(["serve", *folders, *domains, "--max-media-mb", "2", "--max-video-seconds", "60"])
    access, bounds = media_access(args), media_bounds(args)
    assert access.is_guarded and access.max_bytes == 2 * 2**20 and bounds.max_seconds == 60
    assert access.allowed_media_domains == ("example.org", "example.com", "example.net")
    assert len(access.allowed_local_media_path) == 2
    assert media_access(build_parser().parse_args(["serve"])).allowed_local_media_path == ()
    assert build_parser().parse_args(["serve"]).host == build_parser().parse_args(["web"]).host == "127.0.0.1"


def test_errors_are_those_of_the_openai_client(server):
    client = server.client(api_key="secret")
    with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
        server.client().models.list()
    with pytest.raises(openai.NotFoundError, match="no model 'gpt' here"):
        client.chat.completions.create(model="gpt", messages=chat(QUESTION))
    with pytest.raises(openai.BadRequestError, match="is not a public address"):
        client.chat.completions.create(model="hicom-tiny", messages=chat(QUESTION, "http://127.0.0.1/a.mp4"))
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings is not served here"):
        client.embeddings.create(model="hicom-tiny", input="a")


@pytest.mark.slow
def test_a_client_that_leaves_ends_its_answer(endless):
    """Over real sockets. No time decides: the answer can only be ended by its client's leaving, and is waited for."""
    client = endless.client()
    options = {"max_tokens": ENDLESS, "stream": True}
    stream = client.chat.completions.create(model="endless", messages=chat(QUESTION), **options)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert endless.metric("hicom_requests_inside") == 1
    stream.close()
    while endless.metric("hicom_requests_inside"):
        time.sleep(0.05)
    assert endless.metric('hicom_requests_total{outcome="cancelled"}') == 1
    assert 0 < endless.metric("hicom_new_tokens_total") < ENDLESS


def test_sigterm_in_an_answer_finishes_it_and_exits_0(endless):
    stream = endless.client().chat.completions.create(
        model="endless", messages=chat(QUESTION), max_tokens=300, stream=True
    )
    received = []
    for chunk in stream:
        received.append(chunk)
        if len(received) == 3:
            endless.terminate()
    assert received[-1].choices[0].finish_reason == "length"
    assert endless.end() == 0
    requests = [json.loads(line) for line in endless.lines if line.startswith("{") and '"request"' in line]
    assert [one["new_tokens"] for one in requests] == [300]


@pytest.mark.slow
def test_sigterm_while_idle_exits_0_and_the_model_need_not_be_named(server):
    assert any("hicom-tiny knows only its synthetic world" in line for line in server.lines)
    server.terminate()
    assert server.end() == 0
