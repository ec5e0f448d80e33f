"""The demo runs offline and compares with the truth; the report shows what was done."""

import json
import re
import shutil
from pathlib import Path

import pytest

from hicom_hf.cli.main import main
from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo import demo_settings, run_demo
from hicom_hf.dataset_building.export import collect
from hicom_hf.dataset_building.report import first_words, funnel, write_report
from hicom_hf.dataset_building.settings import settings_from_dict

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


def test_a_report_of_an_unfinished_build_shows_what_there_is(demo, tmp_path):
    values = demo_settings(demo[0], "http://localhost:1/v1").to_dict()
    build = Build(settings_from_dict({**values, "output_dir": str(tmp_path / "new"), "captions": None}))
    build.run(until="probe")
    assert "No clips." in Path(write_report(build)).read_text()


def test_texts_of_a_captioner_cannot_break_the_page(demo):
    record = {"conversations": [{"value": "<video>\n<b>Describe it.</b>"}, {"value": "x"}]}
    assert first_words([record]) == [("<b>describe it.</b>", 1)]


def test_a_demo_without_films_is_refused(tmp_path):
    with pytest.raises(ValueError, match="num_films must be from 1 to 100"):
        run_demo(tmp_path, 0)
