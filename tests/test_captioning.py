"""Clips get true captions and pairs, whatever the server does; what was answered is never asked again."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from started import Started, hicom

from hicom_hf.cli.main import main
from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.captions import clip_pictures, filled, media_parts, prompt_text
from hicom_hf.dataset_building.decontamination import benchmark_names
from hicom_hf.dataset_building.deduplication import find_duplicates
from hicom_hf.dataset_building.demo import KEYFRAMES, SHOTS
from hicom_hf.dataset_building.demo_server import MODEL, SceneServer, pairs_of
from hicom_hf.dataset_building.export import collect, decontamination_note, export
from hicom_hf.dataset_building.filtering import reason_to_drop
from hicom_hf.dataset_building.pairs import parse_pairs
from hicom_hf.dataset_building.refusals import REFUSED, NoUseError, checked_caption, is_refusal
from hicom_hf.dataset_building.report import funnel, tokens
from hicom_hf.dataset_building.settings import CaptionSettings, settings_from_dict
from hicom_hf.evaluation.client import EndpointError


@pytest.fixture(scope="module")
def films(world_films):
    return world_films


@pytest.fixture(scope="module")
def scenes(films):
    return list({take.seed: take.scene for takes in films[1].values() for take in takes}.values())


@pytest.fixture(scope="module")
def clipped(films, tmp_path_factory):
    """A build up to the clips, which the tests copy the results of."""
    output_dir = tmp_path_factory.mktemp("clipped")
    Build(settings_of(films, output_dir, "http://localhost:1/v1")).run(until="clips")
    return output_dir


@pytest.fixture
def output_dir(clipped, tmp_path):
    return shutil.copytree(clipped, tmp_path / "out")


def settings_of(films, output_dir, base_url, **captions):
    captions = {"base_url": base_url, "model": MODEL, "num_frames": 4, **captions}
    values = {"videos": [str(films[0])], "output_dir": str(output_dir), "shots": SHOTS}
    return settings_from_dict({**values, "keyframes": KEYFRAMES, "captions": captions})


def true_scene(clip, films):
    """The scene that fills most of a clip."""
    takes = films[1][Path(clip.video.path).name]
    return max(takes, key=lambda take: min(clip.end, take.end) - max(clip.start, take.start)).scene


def are_true(build, films):
    return [build.pairs.read(clip.id)["pairs"] == pairs_of(true_scene(clip, films), 3) for clip in build.clips()]


@pytest.mark.parametrize("transport", ["images", "video"])
def test_every_pair_is_true_of_its_clip(films, scenes, output_dir, transport):
    with SceneServer(scenes) as server:
        build = Build(settings_of(films, output_dir, server.base_url, transport=transport))
        build.run()
        asked = server.asked
        build.run()
    num_clips = len(list(build.clips()))
    assert num_clips >= 6 and asked == 2 * num_clips == server.asked
    assert all(are_true(build, films))
    assert build.pairs.read(next(build.clips()).id)["reply"]["model"] == MODEL


def test_a_server_with_faults_gives_the_same_answers(films, scenes, output_dir):
    faults = [None, "429", None, "500", "broken", None, "truncated", None]
    with SceneServer(scenes, lambda number: faults[number % len(faults)]) as server:
        build = Build(settings_of(films, output_dir, server.base_url))
        build.run()
    assert all(are_true(build, films)) and build.failures() == []
    log = [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]
    assert max(entry["attempts"] for entry in log) > 1


def test_answers_that_hang_are_asked_for_again(films, scenes, output_dir):
    with SceneServer(scenes, lambda number: "hang" if number == 0 else None) as server:
        build = Build(settings_of(films, output_dir, server.base_url, timeout=1.5))
        build.run()
    assert all(are_true(build, films))


def test_what_is_no_caption_is_a_row_with_its_reason_and_gives_no_pair(films, scenes, output_dir):
    faults = ["refuse", "one word", "empty", "refusal field"]
    with SceneServer(scenes, lambda number: faults[number % 4]) as server:
        build = Build(settings_of(films, output_dir, server.base_url, tries=1))
        build.run()
        asked, num_clips = server.asked, len(list(build.clips()))
        build.run()
        assert server.asked == asked == num_clips  # only --retry-failed asks again, and nothing asks for pairs
    failures = build.failures()
    assert len(failures) == num_clips and {failure["stage"] for failure in failures} == {"captions"}
    words = {failure["error"].partition("the last one: ")[2] for failure in failures}
    assert words == {
        "the captioner refuses: 'I cannot help with that.'",
        "the captioner refuses: 'This is against the rules of this server.'",
        "the caption is one word: 'Understood.'",
        "the caption is empty",
    }
    found = collect(build)
    assert found.records == [] and build.has_too_many_failures()
    given = [faults[number % 4] for number in range(num_clips)]
    rows = dict(funnel(build, found))
    refused = given.count("refuse") + given.count("refusal field")
    assert rows["of these, captions: refused by the captioner"] == refused > 1
    assert rows["of these, captions: a caption of one word"] == given.count("one word")
    assert rows["of these, captions: empty"] == given.count("empty")


def test_a_refusal_is_asked_again_and_counted(films, scenes, output_dir):
    with SceneServer(scenes, lambda number: ["refuse", None, "refusal field", None][number % 4]) as server:
        build = Build(settings_of(films, output_dir, server.base_url, tries=9))
        build.run()
    assert all(are_true(build, films)) and build.failures() == []
    counts = dict(tokens(build))
    refused = sum(count for name, count in counts.items() if name.endswith("refused by the captioner"))
    assert (
        server.asked == 2 * len(list(build.clips())) + refused and refused == (server.asked + 1) // 2
    )  # every other one
    assert not any(is_refusal(build.captions.read(clip.id)["caption"]) for clip in build.clips())


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "I can\u2019t assist with that request.",
        "I'm sorry, but I can't describe this clip.",
        "I am sorry. No frames arrived.",
        "Sorry, I can't do that.",
        "Unfortunately, I am unable to view videos.",
        "I'm afraid I cannot watch this.",
        "As an AI language model, I have no eyes.",
        "I'm just an AI and see nothing.",
        "I must decline this request.",
        "We are unable to process this.",
        "**Caption:** I\u2019m not able to see any frames.",
        "There are no frames attached to your message.",
        "Please provide the video.",
        "I apologize, this is against my rules.",
        "I don't have access to the clip.",
        "Unable to determine what is shown.",
        "Unable to assist.",
        "Unable to describe the video.",
        "抱歉，我无法描述这段视频。",
    ],
)
def test_refusals_are_known_by_their_beginning(text):
    with pytest.raises(NoUseError, match="refuses") as caught:
        checked_caption(f"  {text}\n")
    assert caught.value.reason == REFUSED


@pytest.mark.parametrize(
    "text",
    [
        'A man says "I cannot help with that" and shuts the door.',
        '"I\'m sorry" is written in red on a white card that a girl holds.',
        "Sorry-looking dogs sit in the rain.",
        "Unfortunately for the rider, the horse stops, and he falls into the water.",
        "No picture hangs on the wall; a woman sweeps the floor.",
        "There are no frames on the shelf, only books.",
        "Unable to reach the shelf, a child climbs on a chair.",
        "Unable to continue, the runner sits down; a woman who cannot help with that stands by.",
        "Unable to open the door, a man breaks a window.",
        "An AI robot that cannot walk lies on its side.",
        "We cannot see the man's face, because he looks out of the window.",
        "I can see a black cat.",
        "As an aircraft lands, people wave.",
        "Please wait, says a sign at the door, and a man does.",
        "A cat.",
        "一只黑猫坐在窗边的椅子上，看着外面的鸟，然后慢慢睡着了。",
    ],
)
def test_descriptions_that_mention_such_words_stay(text):
    assert checked_caption(text) == text


def test_a_wrong_key_stops_the_run_with_the_servers_words(films, scenes, output_dir, tmp_path, capsys):
    with SceneServer(scenes, lambda number: "401") as server:
        settings = settings_of(films, output_dir, server.base_url)
        with pytest.raises(EndpointError, match=r"answers 401.*fault 401"):
            Build(settings).run()
        file = tmp_path / "build.yaml"
        file.write_text(yaml.safe_dump(settings.to_dict()))
        assert main(["build-data", "run", str(file)]) == 1
        assert "fault 401" in capsys.readouterr().err
    assert Build(settings).failures() == []  # nothing is wrong with the clips


def test_other_prompts_redo_answers_only_and_the_address_redoes_nothing(films, output_dir, tmp_path):
    build = Build(settings_of(films, output_dir, "http://a/v1"))
    other = Build(settings_of(films, output_dir, "http://b/v1", max_in_flight=1))
    assert other.captions.folder == build.captions.folder and other.pairs.folder == build.pairs.folder
    (tmp_path / "mine.txt").write_text("Describe.")
    changed = Build(settings_of(films, output_dir, "http://a/v1", prompt=str(tmp_path / "mine.txt")))
    assert changed.captions.folder != build.captions.folder and changed.pairs.folder != build.pairs.folder
    assert changed.chosen.folder == build.chosen.folder


@pytest.mark.parametrize("num_answers", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 9))])
def test_after_kill_9_nothing_is_asked_twice(films, scenes, output_dir, tmp_path, num_answers):
    with SceneServer(scenes, delay=0.2) as server:
        file = tmp_path / "build.yaml"
        settings = settings_of(films, output_dir, server.base_url, max_in_flight=1)
        file.write_text(yaml.safe_dump(settings.to_dict()))
        with Started(hicom, "build-data", "run", file) as process:
            while process.is_alive and server.answered.total() < num_answers:
                time.sleep(0.02)
            process.kill()
        kept = {path for path in output_dir.glob("captions-*/*/*.json")}
        assert main(["build-data", "run", str(file)]) == 0
        build = Build(settings)
        assert all(are_true(build, films)) and kept <= set(output_dir.glob("captions-*/*/*.json"))
        assert not list(output_dir.rglob("*.unfinished*"))
        again = server.answered.total() - 2 * len(list(build.clips()))
    assert again <= 1  # the one that was in flight


def test_prompts_hold_the_papers_rules_and_keep_other_braces():
    assert "refers to specific visual information, such as the people or the objects" in prompt_text("pairs_v1")
    assert filled('{n} {"a": {n}}', n=1) == '1 {"a": 1}'
    with pytest.raises(FileNotFoundError, match="caption_v1"):
        prompt_text("caption_v9")


def test_pictures_of_a_clip_are_small_and_come_before_the_words(films):
    settings = CaptionSettings(base_url="http://a", model="m", num_frames=3, max_side=64, media_ids=True)
    pictures = clip_pictures(str(films[0] / "film00.mp4"), 1.0, 5.0, settings)
    assert len(pictures) == 3 and all(picture[:2] == b"\xff\xd8" for picture in pictures)
    assert [part["uuid"] for part in media_parts(pictures, "c", settings)] == ["c-0", "c-1", "c-2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "no JSON object"),
        ('{"pears": 1}', 'no list "pairs"'),
        ('{"pairs": [{"instruction": "a"}, 3]}', "no pair"),
    ],
)
def test_answers_without_pairs_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_pairs(text, 3)


def test_a_clip_that_cannot_be_read_is_a_row(films, scenes, output_dir):
    with SceneServer(scenes) as server:
        build = Build(settings_of(films, output_dir, server.base_url))
        clip = next(build.clips())
        video = build.videos[clip.video.id]
        build.videos[clip.video.id] = type(video)(video.id, video.path + ".gone", video.relative, video.num_bytes)
        build.run(until="captions")
    assert {row["stage"] for row in build.failures()} == {"captions"}


# Export --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered(films, scenes, clipped, tmp_path_factory):
    output_dir = shutil.copytree(clipped, tmp_path_factory.mktemp("answered") / "out")
    with SceneServer(scenes) as server:
        build = Build(settings_of(films, output_dir, server.base_url))
        build.run()
    return build


def variant(answered, tmp_path, **values):
    """The answered build in a folder of its own, with other settings."""
    output_dir = tmp_path / "out"
    shutil.copytree(answered.output_dir, output_dir)
    return Build(settings_from_dict({**answered.settings.to_dict(), "output_dir": str(output_dir), **values}))


def test_exported_records_pass_the_check_and_carry_their_provenance(answered, films):
    from pyarrow import parquet

    from hicom_hf.data.checking import check_data

    found = export(answered)
    assert len(found.records) == 3 * found.clips == 3 * len(list(answered.clips()))
    report = check_data(answered.output_dir / "train.jsonl")
    assert not report.problems
    table = parquet.read_table(answered.output_dir / "train.provenance.parquet").to_pylist()
    assert [row["id"] for row in table] == [record["id"] for record in found.records]
    assert table[0]["captioner"] == MODEL and table[0]["licence"] == "not stated"
    card = (answered.output_dir / "data_card.md").read_text()
    assert "not decontaminated" in card and "25.67" in card


def test_a_deleted_video_leaves_nothing_and_stays_away(answered, tmp_path):
    build = variant(answered, tmp_path)
    first = next(iter(build.videos))
    assert build.delete_video(first) > 3
    assert not list(build.output_dir.glob(f"*/*/{first}*"))
    again = Build(build.settings)
    assert first not in again.videos
    assert first not in {row["video_id"] for row in export(again).provenance}
    with pytest.raises(ValueError, match="is no video of this build"):
        build.delete_video("none")


def test_copies_of_clips_are_left_out(answered, films, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(films[0] / "film00.mp4", videos / name)
    values = {"videos": [str(videos)], "deduplicate": {"threshold": 0.9999}}
    build = variant(answered, tmp_path, **values)
    build.run(until="clips")
    clips = list(build.clips())
    assert {clip.video.relative.rpartition("/")[2] for clip in build.selected_clips()} == {"a.mp4"}
    assert 2 * len(build.selected_clips()) == len(clips)
    assert build.status()["left out"] == {"duplicate": len(clips) // 2}


def test_videos_of_benchmarks_are_left_out_by_name_and_by_their_pictures(answered, films, tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps([{"url": "x", "video": "clips/film01.mp4"}]))
    build = variant(answered, tmp_path, decontaminate={"benchmark_files": [str(tmp_path / "benchmark.json")]})
    assert {Path(clip.video.path).stem for clip in build.selected_clips()} == {"film00"}
    assert decontamination_note(build) == "decontaminated against benchmark.json"
    folder = tmp_path / "benchmark"
    folder.mkdir()
    shutil.copy(films[0] / "film00.mp4", folder / "renamed.mp4")
    shutil.rmtree(build.output_dir)
    build = variant(answered, tmp_path, decontaminate={"benchmark_videos": str(folder), "threshold": 0.999})
    build.run(until="clips")
    assert {Path(clip.video.path).stem for clip in build.selected_clips()} == {"film01"}


def test_names_are_found_in_every_kind_of_file(tmp_path):
    for name, text in {
        "a.jsonl": '{"url": "https://www.youtube.com/watch?v=abcdefghijk"}\n',
        "b.csv": "id,name\n1,dir/second.mp4\n",
        "c.txt": "third\n",
    }.items():
        (tmp_path / name).write_text(text)
    names = benchmark_names([str(path) for path in sorted(tmp_path.iterdir())])
    assert {"abcdefghijk", "second", "third"} <= names
    (tmp_path / "d.bin").write_text("")
    with pytest.raises(ValueError, match=r"d\.bin: of a kind that is not read"):
        benchmark_names([str(tmp_path / "d.bin")])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        benchmark_names([str(tmp_path / "none.json")])


@pytest.mark.parametrize(
    ("instruction", "answer", "reason"),
    [
        ("Describe the cat.", "The video does not describe the cat at all.", "paper: not provide, not describe"),
        ("Describe the cat.", "I'm sorry, I have no idea about it.", "refusal"),
        ("Describe the cat.", "In the frames one sees a cat.", "speaks of its task"),
        ("Describe the cat.", "A cat.", "too short an answer"),
        ("?", "A black cat that sleeps.", "instruction is empty"),
        ("Describe the cat.", "A black cat that does not show its tail.", None),
    ],
)
def test_each_rule_drops_its_pairs_and_no_others(instruction, answer, reason):
    assert reason_to_drop({"instruction": instruction, "answer": answer}) == reason


def test_duplicates_are_found_within_and_across_blocks(monkeypatch):
    vectors = np.eye(6)[[0, 1, 0, 2, 1, 0]]
    assert find_duplicates(vectors, 0.99) == {2: 0, 4: 1, 5: 0}
    monkeypatch.setattr("hicom_hf.dataset_building.deduplication.BLOCK", 2)
    assert find_duplicates(vectors, 0.99) == {2: 0, 4: 1, 5: 0}
