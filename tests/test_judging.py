"""A judge behind an endpoint: repeated, resumed, failing and lying; the answers stay as they are."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hicom_hf.cli.main import main
from hicom_hf.evaluation.client import AnswerError, Endpoint, EndpointError
from hicom_hf.evaluation.judge_prompts import ASPECTS, judge_messages, parse_judgement
from hicom_hf.evaluation.judging import as_text, judge, judge_items
from hicom_hf.evaluation.results import ANSWERS_FILE, SETTINGS_FILE


class Judge:
    """A server that finds an answer right if it has the words of the right one; `faults` come first."""

    def __init__(self, *faults):
        self.faults, self.bodies = list(faults), []

    def __enter__(self):
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                judge.bodies.append(body)
                words = body["messages"][-1]["content"]
                status, text = judge.faults.pop(0) if judge.faults else (200, judge.mark(words))
                message = {"choices": [{"message": {"content": text}}], "model": "judge-1"}
                content = json.dumps(message).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def mark(words):
        told = words.split("Right answer: ")[1].split("\n")[0]
        answers = [part.split("\n")[0] for part in words.split("Answer to be marked: ")[1:]]
        is_right = all(told in answer for answer in answers)
        return f'```json\n{{"correct": {str(is_right).lower()}, "score": {4 if is_right else 1}}}\n```'

    def endpoint(self, **options):
        address = f"http://127.0.0.1:{self.server.server_port}/v1"
        return Endpoint(base_url=address, model="gpt/judge", max_in_flight=2, **options)


def write_results(folder, task, lines, protocol="ours"):
    folder.mkdir()
    (folder / SETTINGS_FILE).write_text(json.dumps({"task": task, "protocol": protocol}))
    (folder / ANSWERS_FILE).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def line(name, answer, part=None, gold="blue", video="a.mp4"):
    categories = {"part": part} if part else {}
    asked = {"prompt": "Which?", "instruction": "Which?"}
    return {"id": name, "video": video, "gold": gold, "answer": answer, "categories": categories, **asked}


@pytest.fixture
def results(tmp_path):
    answers = ["It is blue.", "red", None, "blue"]
    return write_results(
        tmp_path / "results",
        "activitynet_qa",
        [line(str(n), text, video=f"{n}.mp4") for n, text in enumerate(answers)],
    )


def test_answers_are_marked_and_what_has_no_answer_is_wrong_without_asking(results):
    with Judge() as server:
        summary = judge(results, server.endpoint())
    assert (
        summary["aspects"]["match"]["accuracy"]["mean"] == 50 and summary["aspects"]["match"]["score"]["mean"] == 2.25
    )
    assert (summary["num_judged"], summary["unjudged"], summary["judge"]) == (4, 0, "gpt/judge")
    assert len(server.bodies) == 3 and all(body["temperature"] == 0 for body in server.bodies)
    assert "accuracy 50.0 %" in as_text(summary)
    kept = [json.loads(text) for text in (results / "judge-gpt-judge" / "judgements.jsonl").read_text().splitlines()]
    assert {one["judge"] for one in kept} == {"judge-1", None} and len(kept) == 4


def test_what_is_judged_is_not_asked_again_and_another_judge_has_its_own_folder(results):
    with Judge() as server:
        first = judge(results, server.endpoint(), limit=2)
        assert first["num_judged"] == 2 and len(server.bodies) == 2
        judge(results, server.endpoint())
        judge(results, server.endpoint())
        assert len(server.bodies) == 3


def test_a_judge_that_talks_or_lies_is_left_out_and_asked_again(results):
    with Judge((200, "I would say yes."), (200, '{"correct": true, "score": 9}')) as server:
        summary = judge(results, server.endpoint())
        assert (summary["unjudged"], summary["num_judged"], len(summary["failures"])) == (2, 2, 2)
        assert "2 without a usable judgement" in as_text(summary)
        again = judge(results, server.endpoint())
    assert again["unjudged"] == 0 and again["aspects"]["match"]["accuracy"]["mean"] == 50


def test_an_overloaded_endpoint_is_asked_again_and_a_closed_one_ends_the_run(results):
    with Judge((503, ""), (500, "")) as server:
        assert judge(results, server.endpoint())["unjudged"] == 0
    with Judge(*[(401, "no key")] * 4) as server, pytest.raises(EndpointError, match="401"):
        judge(results, Endpoint(base_url=server.endpoint().base_url, model="closed"))


def test_videochatgpt_is_marked_in_five_aspects_and_pairs_together(tmp_path):
    lines = [
        line("generic-0", "blue", "generic"),
        line("temporal-0", "red", "temporal"),
        line("consistency-0-Q1", "blue", "consistency"),
        line("consistency-0-Q2", "red", "consistency"),
    ]
    results = write_results(tmp_path / "results", "videochatgpt", lines)
    items = judge_items(results)
    assert [item.aspect for item in items] == ["correctness", "detail", "context", "temporal", "consistency"]
    with Judge() as server:
        summary = judge(results, server.endpoint())
    assert {name: found["score"]["mean"] for name, found in summary["aspects"].items()} == {
        "correctness": 4,
        "detail": 4,
        "context": 4,
        "temporal": 1,
        "consistency": 1,
    }
    assert summary["mean_score"] == pytest.approx(14 / 5)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "{'correct': True, 'score': 4}", '{"correct": "yes", "score": 4}', "{}"]
)
def test_a_judges_text_is_parsed_never_evaluated(text):
    with pytest.raises(AnswerError):
        parse_judgement(text)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_the_published_prompts_have_every_text_once_and_nothing_left_to_fill_in(aspect):
    lines = [line("1", "a <question> of mine"), line("2", "its <answer>")][: 2 if aspect == "consistency" else 1]
    [system, user] = judge_messages("published", aspect, lines)
    assert system["content"].startswith("You are an intelligent chatbot designed for evaluating the ")
    assert "##INSTRUCTIONS: - " in system["content"]
    assert user["content"].startswith("Please evaluate the following video-based question-answer pair:\n\nQuestion")
    assert (
        all(user["content"].count(one["answer"]) == 1 for one in lines) and "Correct Answer: blue\n" in user["content"]
    )
    assert user["content"].endswith("'score': 4.8}.")


@pytest.mark.parametrize("protocol", ["official", "lmms"])
def test_the_published_prompts_are_asked_and_their_replies_parsed(tmp_path, protocol):
    lines = [line("0", "It is blue."), line("1", "red", video="b.mp4"), line("2", "", video="c.mp4")]
    results = write_results(tmp_path / "results", "activitynet_qa", lines, protocol)
    replies = [(200, "{'pred': 'yes', 'score': 4}"), (200, "```python\n{'pred': 'No', 'score': 1.5}\n```")]
    with Judge(*replies) as server:
        summary = judge(results, server.endpoint())
    assert summary["prompts"] == "published" and summary["unjudged"] == 0
    assert summary["aspects"]["match"]["accuracy"]["mean"] == pytest.approx(100 / 3)
    assert summary["aspects"]["match"]["score"]["mean"] == pytest.approx(5.5 / 3)
    assert all("response_format" not in body and body["temperature"] == 0 for body in server.bodies)
    assert server.bodies[0]["messages"][0]["content"].startswith("You are an intelligent chatbot")


def test_the_published_aspects_have_scores_alone(tmp_path):
    pair = [line("consistency-0-Q1", "blue", "consistency"), line("consistency-0-Q2", "red", "consistency")]
    results = write_results(tmp_path / "results", "videochatgpt", pair, "official")
    with Judge((200, "{''score': 3}")) as server:
        summary = judge(results, server.endpoint())
    assert summary["aspects"]["consistency"]["accuracy"] is None and summary["mean_score"] == 3
    assert "Predicted Answer to Question 2: red\n" in server.bodies[0]["messages"][1]["content"]
    assert "consistency: score 3.00" in as_text(summary)


@pytest.mark.parametrize(
    "text", ["yes", "{'pred': 'yes'}", "{'pred': 'maybe', 'score': 3}", "{'pred': 'yes', 'score': 9}"]
)
def test_a_published_reply_that_says_something_else_is_no_judgement(text):
    with pytest.raises(AnswerError):
        parse_judgement(text, "published")


def test_a_folder_that_needs_no_judge_is_refused(tmp_path, capsys):
    results = write_results(tmp_path / "results", "mvbench", [line("1", "A")])
    with pytest.raises(ValueError, match="mvbench is marked without a judge"):
        judge_items(results)
    with pytest.raises(FileNotFoundError, match="no folder of results"):
        judge_items(tmp_path)
    assert main(["eval", "--judge", str(results)]) == 2
    assert "--judge-url is missing" in capsys.readouterr().err


def test_the_command_fails_and_says_why_where_judgements_are_missing(results, capsys):
    with Judge((200, "I would say yes.")) as server:
        url = server.endpoint().base_url
        assert main(["eval", "--judge", str(results), "--judge-url", url, "--judge-model", "j", "--limit", "1"]) == 1
    captured = capsys.readouterr()
    assert "1 without a usable judgement" in captured.out and "'I would say yes.'" in captured.err


def test_the_command_judges(results, capsys):
    with Judge() as server:
        url = server.endpoint().base_url
        assert main(["eval", "--judge", str(results), "--judge-url", url, "--judge-model", "j", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_judged"] == 4
