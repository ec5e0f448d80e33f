"""Several engines behind one door: answers, follow-ups where the features are, cancellation, a replica that ends."""

import pickle

import pytest

from hicom_hf.assets import example_videos
from hicom_hf.inference import HiComSession
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.processors.video_sources_hicom import VideoReadError
from hicom_hf.serving.replicas import EngineSettings, Replicas, _sendable
from hicom_hf.serving.requests import EngineBusy, Limits, Request, RequestCancelled, Settings, VideoSource
from hicom_hf.serving.statistics import Statistics

QUESTIONS = ("Which way does the cyan moon move?", "How many blue moons are there?")


def asked(question, video, max_new_tokens=16):
    content = [{"type": "video"}, {"type": "text", "text": question}]
    sources = [VideoSource(str(video), {"num_frames": 4})]
    return Request([{"role": "user", "content": content}], sources, settings=Settings(max_new_tokens=max_new_tokens))


def test_counts_of_engines_add_up():
    one, two = Statistics(answered=2, new_tokens=5), Statistics(answered=1, refused=4)
    one.first_token.add(0.2)
    two.first_token.add(3.0)
    both = one + two
    assert (both.answered, both.new_tokens, both.refused) == (3, 5, 4)
    assert sum(both.first_token.counts) == 2 and both.first_token.total == 3.2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (VideoReadError("the video: no"), ValueError),
        (EngineBusy("full", 7), EngineBusy),
        (RequestCancelled("left"), RequestCancelled),
        (OSError("/a/secret"), RuntimeError),
    ],
)
def test_errors_go_from_process_to_process_without_what_only_the_log_may_say(error, kind):
    sent = _sendable(error)
    assert type(sent) is kind and "secret" not in str(sent) and sent.__cause__ is None
    if kind is EngineBusy:
        assert sent.retry_after == 7
    assert pickle.loads(pickle.dumps(EngineSettings())).limits == Limits()


@pytest.mark.slow
def test_two_replicas_answer_as_one_session_and_follow_ups_go_where_the_features_are():
    session = HiComSession.load(dtype="float32", device="cpu")
    access = MediaAccess.guarded(allowed_local_media_path=example_videos()[0].parent)
    settings = EngineSettings(loading={"dtype": "float32"}, access=access, num_workers=0)
    with Replicas(settings, ["cpu", "cpu"]) as replicas:
        assert replicas.note.startswith("hicom-tiny knows only")
        pieces = []
        for question in QUESTIONS:
            tickets = [
                replicas.submit(asked(question, video), lambda _, text: pieces.append(text))
                for video in example_videos()
            ]
            for video, ticket in zip(example_videos(), tickets, strict=True):
                expected = session.open(video, num_frames=4).ask(question, max_new_tokens=16).answer
                result = ticket.future.result()
                assert result.texts == [expected] and result.videos[0].features is None
                assert (result.num_cached_tokens > 0) == (question == QUESTIONS[1])
        assert sorted(pieces)  # texts came as they were generated
        assert {replicas._holders[key] for key in replicas._holders} == {0, 1}  # both have work
        metrics = replicas.metrics()
        assert 'hicom_requests_total{outcome="answered"} 6' in metrics and "hicom_replicas 2" in metrics
        assert "hicom_videos_encoded_total 3" in metrics and "hicom_videos_cached_total 3" in metrics

        with pytest.raises(ValueError, match="the video: local files are not allowed"):
            replicas.submit(asked("a", "/etc/passwd")).future.result()
        assert 'hicom_requests_total{outcome="failed"} 1' in replicas.metrics()

        first = replicas._replicas[0]
        first._process.kill()
        first._thread.join()
        assert not replicas.is_alive
        for video in example_videos():  # those that the first one held go to the second
            assert replicas.submit(asked(QUESTIONS[0], video)).future.result().texts
        assert "hicom_replicas 1" in replicas.metrics() and replicas.num_inside == 0
