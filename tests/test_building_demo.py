"""The demo runs offline and compares with the truth; the report shows what was done."""

import json
import re
import shutil
from pathlib import Path

import pytest

from hicom_hf.cli.main import main
from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo import demo_settings, run_demo
from hicom_hf.dataset_building.demo_server import MODEL, pairs_of
from hicom_hf.dataset_building.export import collect
from hicom_hf.dataset_building.report import first_words, funnel, write_report
from hicom_hf.dataset_building.settings import settings_from_dict
from hicom_hf.dataset_building.truth import compare
from hicom_hf.shapes.films import film_takes

NUM_FILMS = 2


@pytest.fixture(scope="module")
def demo(tmp_path_factory, world_films):
    """The folder of a demo, and what it printed as JSON."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(world_films[0], folder / "films")  # they are the films that it would draw
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *values, **options: lines.append(" ".join(map(str, values))))
        assert main(["build-data", "demo", str(folder), "--films", str(NUM_FILMS), "--json"]) == 0
    return folder, json.loads(next(line for line in lines if line.startswith("{")))


def test_the_demo_keeps_what_the_issue_promises(demo):
    truth = demo[1]["truth"]
    assert truth["recall"] >= 0.9 and truth["precision"] >= 0.9
    assert truth["new_kept"][0] >= 0.95 * truth["new_kept"][1]
    assert truth["returning_kept"][0] <= 0.15 * truth["returning_kept"][1]
    assert truth["true_clips"][0] >= truth["true_clips"][1] - truth["mixed_clips"] > 0
    assert truth["unexplained_clips"] == 0
    assert demo[1]["data check"]["problems"] == 0


def test_the_report_shows_funnel_curves_pictures_and_texts(demo):
    page = (demo[0] / "build" / "report.html").read_text()
    assert page.count("<polyline") == 2 * NUM_FILMS + 3  # cuts per minute, recall and precision against the threshold
    assert page.count("data:image/jpeg;base64,") >= NUM_FILMS * 2
    assert "not decontaminated" in page and "25.67" in page
    build = Build(demo_settings(demo[0], "http://localhost:1/v1"))
    found = collect(build)
    assert funnel(build, found)[-1] == ("pairs", len(found.records))
    assert found.records[0]["conversations"][1]["value"] in page
    assert re.search(r"<td>answers<td>\d+", page)


def test_a_report_after_the_demo_is_the_demos_own(demo, tmp_path):
    path = demo[0] / "build" / "report.html"
    page = path.read_text()
    assert "Against the truth" in page
    path.unlink()
    assert main(["build-data", "report", demo[1]["files"]["build file"]]) == 0
    assert path.read_text() == page
    settings = demo_settings(demo[0], "http://localhost:1/v1").to_dict()
    videos = shutil.copytree(demo[0] / "films", tmp_path / "videos")
    (videos / "film00.mp4").rename(videos / "mine.mp4")  # nobody knows what it shows
    output_dir = shutil.copytree(demo[0] / "build", tmp_path / "build")
    values = {**settings, "videos": [str(videos)], "media_root": None, "output_dir": str(output_dir)}
    assert "Against the truth" not in Path(write_report(Build(settings_from_dict(values)))).read_text()


def test_untrue_pairs_are_explained_by_missed_cuts_which_are_shown(demo, tmp_path):
    films = {f"film{seed:02}.mp4": film_takes(seed) for seed in range(NUM_FILMS)}
    settings = demo_settings(demo[0], "http://localhost:1/v1").to_dict()
    output_dir = shutil.copytree(demo[0] / "build", tmp_path / "build")
    blind = {**settings, "output_dir": str(output_dir), "shots": {"threshold": 1.0}, "clips": {"max_length": 60}}
    build = Build(settings_from_dict(blind))
    build.run(until="clips")
    *_, last = build.clips()
    for clip in build.clips():  # the pairs of the scene that it begins with; the last one's are of none of its scenes
        takes = [take for take in films[Path(clip.video.path).name] if take.end > clip.start + 1]
        pairs = pairs_of((film_takes(7) if clip == last else takes)[0].scene, 3)
        build.pairs.write(clip.id, {"pairs": pairs, "reply": {"model": MODEL}, "prompt": ""})
        build.captions.write(clip.id, {"caption": "x"})
    truth = compare(build, films)
    assert truth.recall < 0.5 and len(truth.missed_cuts) >= 5
    assert {cut.transition for cut in truth.missed_cuts} <= {"cut", "dissolve", "fade"}
    described = {clip.id: clip.described for clip in truth.doubtful_clips if clip.missed}
    assert described.pop(last.id) == 0 and described and all(0 < share < 1 for share in described.values())
    assert truth.mixed_clips == len(truth.doubtful_clips) and truth.unexplained_clips == 0
    assert truth.true_clips[0] < truth.true_clips[1]
    page = Path(write_report(build, truth)).read_text()
    assert "clips that show several scenes" in page and "they describe 0% of the clip" in page


def test_untrue_pairs_of_one_scene_are_a_fault(demo, tmp_path):
    films = {f"film{seed:02}.mp4": film_takes(seed) for seed in range(NUM_FILMS)}
    settings = demo_settings(demo[0], "http://localhost:1/v1").to_dict()
    output_dir = shutil.copytree(demo[0] / "build", tmp_path / "build")
    build = Build(settings_from_dict({**settings, "output_dir": str(output_dir)}))
    known = {clip.id for clip in compare(build, films).doubtful_clips}
    wrong = next(clip for clip in build.clips() if clip.id not in known)
    build.pairs.write(wrong.id, {"pairs": pairs_of(film_takes(7)[0].scene, 3)})
    truth = compare(build, films)
    assert truth.unexplained_clips == 1 and {clip.id for clip in truth.doubtful_clips} == known | {wrong.id}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_twenty_films_each_untrue_clip_has_a_missed_cut(tmp_path):
    build, truth, problems = run_demo(tmp_path, 20)
    assert truth.recall >= 0.9 and truth.precision >= 0.9 and problems == 0
    assert truth.new_kept[0] >= 0.95 * truth.new_kept[1] and truth.returning_kept[0] <= 0.15 * truth.returning_kept[1]
    untrue = [clip for clip in truth.doubtful_clips if not clip.is_true]
    assert (
        truth.true_clips[1] - truth.true_clips[0] == len(untrue) <= truth.mixed_clips and truth.unexplained_clips == 0
    )
    missed = {(cut.video, cut.time) for cut in truth.missed_cuts}
    assert all((clip.video, time) in missed for clip in truth.doubtful_clips for time in clip.missed)
    page = (build.output_dir / "report.html").read_text()
    assert all(f"{clip.video}, {clip.start:.1f} to {clip.end:.1f} s" in page for clip in truth.doubtful_clips)


def test_a_report_of_an_unfinished_build_shows_what_there_is(demo, tmp_path):
    values = demo_settings(demo[0], "http://localhost:1/v1").to_dict()
    build = Build(settings_from_dict({**values, "output_dir": str(tmp_path / "new"), "captions": None}))
    build.run(until="probe")
    assert "No clips." in Path(write_report(build)).read_text()


def test_a_report_says_what_it_cannot_show(demo, tmp_path):
    films = shutil.copytree(demo[0] / "films", tmp_path / "films")
    shutil.copytree(demo[0] / "build", tmp_path / "build")
    size = (films / "film00.mp4").stat().st_size
    (films / "film00.mp4").write_bytes(b"x" * size)  # damaged since
    settings = demo_settings(tmp_path, "http://localhost:1/v1").to_dict()
    (tmp_path / "build.yaml").write_text(json.dumps({**settings, "filter": {"phrases": [" "]}}))
    assert main(["build-data", "report", str(tmp_path / "build.yaml")]) == 0
    page = (tmp_path / "build" / "report.html").read_text()
    assert "No picture: " in page and "data:image/jpeg;base64," in page
    assert "<td>phrase of the build file" in page  # beside each pair that is dropped


def test_texts_of_a_captioner_cannot_break_the_page(demo):
    record = {"conversations": [{"value": "<video>\n<b>Describe it.</b>"}, {"value": "x"}]}
    assert first_words([record]) == [("<b>describe it.</b>", 1)]


def test_a_demo_without_films_is_refused(tmp_path):
    with pytest.raises(ValueError, match="num_films must be from 1 to 100"):
        run_demo(tmp_path, 0)
