"""The web page, by its methods, and driven by headless Chromium."""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hicom_hf.assets import FOLDER, example_videos
from hicom_hf.inference import HiComSession, shown_frames, whole_frames
from hicom_hf.processors.answering_hicom import read_frames
from hicom_hf.processors.frame_selection_hicom import SelectionRecord
from hicom_hf.processors.frame_tiles_hicom import FrameTiles
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.requests import Limits, Settings
from hicom_hf.shapes import Scene, render
from hicom_hf.shapes.writing import write_video

QUESTION = "What colour is the ring?"


@pytest.fixture(scope="module", autouse=True)
def gradio():
    """Imported by the process that runs these tests only, since it takes seconds."""
    return pytest.importorskip("gradio", reason="the extra web is not installed")


@pytest.fixture(scope="module")
def page():
    from hicom_hf.serving.page import Page

    session = HiComSession.load(dtype="float32", device="cpu")
    access = MediaAccess.guarded(allowed_local_media_path=FOLDER)
    limits = Limits(max_new_tokens=10**8, max_seconds=1e9)
    with Engine(session, access=access, limits=limits, num_workers=0, keep_pictures=True) as engine:
        yield Page(engine)


def last(steps):
    *_, step = steps
    return step


def opened(page, video=0, num_frames=4, chooses=False, tiles=False):
    return page.open(str(example_videos()[video]), num_frames, chooses, tiles, None)


def test_a_video_shows_its_frames_and_what_compression_saves(page):
    visit, shown, about, _ = opened(page)
    assert len(shown) == 4 and shown[0][1] == f"{visit.times[0]:.2f} s"
    tokens = page.config.num_visual_tokens(4)
    assert f"4 frames, {4 * page.config.grid[0] * page.config.grid[1]:,} patches → **{tokens:,} tokens**" in about


def test_a_chat_streams_the_answers_of_the_session_and_keeps_its_turns(page):
    alone = page.engine.session.open(example_videos()[0], num_frames=4).ask(QUESTION)
    page.engine.session.cache.clear()
    visit, *_ = opened(page)
    chat, visit, line, *_ = last(page.ask(QUESTION, [], visit, "", 64))
    assert [turn["content"] for turn in chat] == [QUESTION, f"{alone.answer}\n\n*compressed on: {QUESTION}*"]
    assert f"Compressed on: **{QUESTION}**" in line and "first question" in line
    chat, visit, line, *_ = last(page.ask("Where is it?", chat, visit, "the ring", 64))
    assert "Compressed on: **the ring**" in line and "follow-up" in line and len(visit.turns) == 4
    assert chat[-1]["content"].endswith("*compressed on: the ring*")


def test_the_attention_of_each_answer_can_be_shown(page):
    visit, *_ = opened(page)
    for question, instruction in ((QUESTION, ""), ("Where is it?", "the moon")):
        last(page.ask(question, [], visit, instruction, 8))
    which, slider = page.controls(visit, None)
    assert which.choices == [(QUESTION, 0), ("Where is it?", 1)] and which.value == 1 and slider.maximum == 4
    for branch in ("local", "global"):
        pictures = [page.attention(visit, answer, number, branch) for answer in (0, 1) for number in (1, 4, 99)]
        assert pictures[0].width >= 320 and pictures[0] != pictures[1] == pictures[2]
        assert pictures[0] != pictures[3] and page.attention(visit, None, 1, branch) == pictures[3]
    for number in range(10):
        last(page.ask(f"Question {number}?", [], visit, "", 1))
    assert len(visit.mapped) == 8 and visit.mapped[-1].question == "Question 9?"


def test_a_question_chooses_its_frames_and_the_timeline_shows_them(page):
    visit, _, about, bar = opened(page, chooses=True)
    assert "each question chooses at most 4 among 4 per second" in about and bar == ""
    *_, shown, bar = last(page.ask(QUESTION, [], visit, "", 8))
    [mapped] = visit.mapped
    assert [caption for _, caption in shown] == [f"{time:.2f} s" for time in mapped.times] and len(shown) == 4
    assert bar.count("<title>") == 4 and all(f"<title>{time:.2f} s</title>" in bar for time in mapped.times)
    assert "of 16 frames" in bar and mapped.frames.shape == visit.frames.shape


def test_the_page_says_that_what_has_no_duration_is_seen_in_full(page, tmp_path, monkeypatch):
    allow(page, tmp_path, monkeypatch)
    picture = Image.fromarray(render(Scene.from_seed(3, split="test"), num_frames=1, size=80)[0][0])
    picture.save(tmp_path / "one.png")
    said = "; **questions do not choose frames of this video**, as it has no duration: all see these"
    for chooses in (True, False):
        visit, _, about, _ = page.open(str(tmp_path / "one.png"), 4, chooses, False, None)
        assert visit.source.selection is None and (said in about) == chooses
    assert said not in opened(page, chooses=True)[2]


def wide_film(page, folder, monkeypatch):
    """A film of 144 x 80, which the page may read."""
    frames = render(Scene.from_seed(3, split="test"), num_frames=8, size=(80, 144))[0]
    path = write_video(folder / "wide.mp4", frames, fps=4)
    allow(page, folder, monkeypatch)
    return str(path)


def allow(page, folder, monkeypatch):
    """Let the page read the files of a folder."""
    folders = (*page.engine.media.access.allowed_local_media_path, os.path.realpath(folder))
    monkeypatch.setattr(
        page.engine.media, "access", replace(page.engine.media.access, allowed_local_media_path=folders)
    )


def test_a_question_chooses_among_tiles_and_the_square_is_shown(page, tmp_path, monkeypatch):
    path = wide_film(page, tmp_path, monkeypatch)
    visit, shown, about, figure = page.open(path, 4, False, True, None)
    assert "each question chooses the patches among squares" in about and figure == ""
    height, width = visit.frames.shape[1:3]
    assert shown[0][0].shape == (height, width, 3) and abs(width / height - 144 / 80) < 0.1
    chat, visit, _, _, figure = last(page.ask(QUESTION, [], visit, "", 64))
    answer = page.engine.session.open(path, num_frames=4, tiles=FrameTiles()).ask(QUESTION, max_new_tokens=64)
    assert chat[-1]["content"].startswith(f"{answer.answer}\n\n")
    best = answer.tiles.tiles[0]
    top, left, bottom, right = (round(100 * part) for part in best.box)
    assert f"rows {top} to {bottom} %, columns {left} to {right} %, score {best.score:.2f}" in figure
    assert (
        f"zoom 1, {len(answer.tiles.tiles)} squares seen; the best one, at {visit.times[best.frame]:.2f} s" in figure
    )
    assert f"left:{100 * best.box[1]:.1f}%" in figure and 'src="data:image/png;base64,' in figure
    heated = page.attention(visit, None, 1, "local")
    assert heated.width >= 320 and abs(heated.width / heated.height - width / height) < 1e-6


def test_a_question_chooses_frames_and_tiles_of_them_and_both_are_shown(page, tmp_path, monkeypatch):
    path = wide_film(page, tmp_path, monkeypatch)
    visit, _, about, _ = page.open(path, 4, True, True, None)
    assert "chooses at most 4 among 8 per second" in about and "among squares of the frames" in about
    assert visit.source.tiles == FrameTiles(score_candidates=True)
    how = {"selection": visit.source.selection, "tiles": visit.source.tiles, **visit.source.sampling}
    opened = page.engine.session.open(path, **how)
    for number, text in enumerate((QUESTION, "Where is the circle?")):
        chat, visit, line, shown, seen = last(page.ask(text, [], visit, "", 64))
        answer = opened.ask(text, max_new_tokens=64)
        assert number or chat[-1]["content"].startswith(f"{answer.answer}\n\n")  # later turns hold the earlier ones
        times, best = answer.selection.times, answer.tiles.tiles[0]
        assert [caption for _, caption in shown] == [f"{time:.2f} s" for time in times]
        assert all(f"<title>{time:.2f} s</title>" in seen for time in times)
        assert f"the best one, at {times[best.frame]:.2f} s" in seen and f"score {best.score:.2f}" in seen
        height, width = shown[0][0].shape[:2]
        assert abs(width / height - 144 / 80) < 0.1
        numbers = [opened.candidates.sampling.indices[frame] for frame in answer.selection.frames]
        read = read_frames(page.engine.session.processor, path, indices=numbers)
        whole = whole_frames(
            page.engine.session.processor, shown_frames(page.engine.session.processor, read), read.sampling
        )
        assert np.array_equal(visit.mapped[-1].frames, whole)
        assert ("(first question, ", "(follow-up, ")[number] in line


def test_sessions_free_what_they_hold_and_are_bounded_in_number(page, monkeypatch):
    monkeypatch.setattr("hicom_hf.serving.page.MAX_VISITS", 2)
    first, *_ = opened(page)
    second, *_ = opened(page)
    third, *_ = page.open(str(example_videos()[1]), 4, False, False, second)
    assert second.is_closed and second.frames.nbytes == 0 and not first.is_closed
    last(page.ask(QUESTION, [], first, "", 4))  # is used, so that the third is the oldest
    fourth, *_ = opened(page)
    assert third.is_closed and not first.is_closed and not fourth.is_closed
    chat, visit, *_ = last(page.ask(QUESTION, [], third, "", 4))
    assert chat[-1]["content"].startswith("This session was closed") and visit is None
    for one in (first, fourth):
        page.forget(one)
    assert not page._visits and first.mapped == []


def test_errors_are_texts_of_the_page(page, tmp_path):
    assert page.open(None, 4, False, False, None) == (None, [], "Choose a video.", "")
    (tmp_path / "a.mp4").write_text("no video")
    about = page.open(str(tmp_path / "a.mp4"), 4, False, False, None)[2]
    assert about.startswith("**This video cannot be read.** the video: local files")
    chat, *_ = last(page.ask(QUESTION, [], None, "", 64))
    assert chat[-1]["content"] == "Choose a video first."
    visit, *_ = opened(page)
    chat, *_ = last(page.ask(QUESTION, [], visit, "", 10**9))
    assert chat[-1]["content"].startswith("**Error:** max\\_tokens is 1000000000, more than")


def test_what_people_write_is_no_markup():
    from hicom_hf.serving.page import plain, timeline

    assert plain("<b>*x*</b> [a](b)") == "\\<b\\>\\*x\\*\\</b\\> \\[a\\]\\(b\\)"
    record = SelectionRecord("question", "question", "<i>", 9, None, None, (1,), (0.5,), (), ())
    assert "<i>" not in timeline(record, 2.0) and "&lt;i&gt;" in timeline(record, 2.0)


def test_stopping_ends_the_answer(page, make_endless):
    """Only Stop can end the answer; nothing waits for a time."""
    make_endless(page.engine.session)
    visit, *_ = opened(page)
    steps = page.ask("Describe the picture.", [], visit, "", 10**8)
    next(steps)
    cancelled = page.engine.statistics.cancelled
    steps.close()
    with page.engine._changed:
        page.engine._changed.wait_for(lambda: page.engine.num_inside == 0)
    assert page.engine.statistics.cancelled == cancelled + 1


# In a browser --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_shows_the_page_offline_and_deletes_uploads_at_its_end(tmp_path):
    command = [sys.executable, "-m", "hicom_hf.cli.main", "web", "--port", "7867", "--workers", "0"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "http://127.0.0.1:7867" in line:
                break
        with urllib.request.urlopen("http://127.0.0.1:7867", timeout=600) as response:
            content = response.read().decode()
        process.terminate()
    assert "HICom: hicom-tiny" in content and "fonts.googleapis" not in content
    assert process.returncode == 0 and list(tmp_path.glob("hicom-*")) == []


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """48 seconds of twelve scenes, H.264."""
    scenes = [Scene.from_seed(seed, clutter="sparse", split="test") for seed in range(12)]
    frames = np.concatenate([render(scene, size=144)[0] for scene in scenes])
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames)


@pytest.fixture(scope="module")
def chromium():
    """Path of the browser. Without one, no page is made, whose server gradio leaves with an open event loop."""
    pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")
    return shutil.which("chromium") or pytest.skip("chromium is not installed")


@pytest.fixture(scope="module")
def site(chromium):
    """The page on its engine, in this process."""
    from gradio import networking

    from hicom_hf.serving.web import launch_page

    networking.url_ok = lambda url: True  # it gives itself 3 seconds, which a loaded machine exceeds
    folders = [FOLDER, tempfile.gettempdir()]
    limits = Limits(max_seconds=1e9)
    session = HiComSession.load(dtype="float32", device="cpu")
    access = MediaAccess.guarded(allowed_local_media_path=folders)
    with Engine(session, access=access, limits=limits, num_workers=0, keep_pictures=True) as engine:
        blocks = launch_page(engine, "hicom-tiny", "127.0.0.1", None, waits=False)
        assert blocks.max_file_size == access.max_bytes
        yield blocks.local_url.rstrip("/"), engine
        blocks.close()


class Window:
    """A browser window on the page."""

    def __init__(self, page, address):
        self.page, self.asked = page, []
        page.set_default_timeout(300_000)
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)

    def upload(self, path, expected):
        if self.page.locator("#video button[aria-label='Clear']").count():
            self.page.click("#video button[aria-label='Clear']")
        self.page.set_input_files("#video input[type=file]", str(path))
        self.page.wait_for_selector(f"#about:has-text('{expected}')")

    def ask(self, question, expected):
        """By keyboard."""
        self.page.fill("#question textarea", question)
        self.page.press("#question textarea", "Enter")
        self.page.wait_for_selector(f"#used:has-text('{expected}')")
        self.page.wait_for_function("document.querySelector('#question textarea').value == ''")

    def attention(self):
        return self.page.wait_for_selector("#attention img").get_attribute("src")

    def until_attention_is_another(self, before):
        changed = "before => (document.querySelector('#attention img') || {}).src != before"
        self.page.wait_for_function(changed, arg=before)
        return self.attention()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # gradio's own, in its server's threads
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_drives_the_whole_page(chromium, site, film, width, tmp_path, monkeypatch, make_endless):
    from playwright.sync_api import sync_playwright

    address, engine = site
    pictures = os.environ.get("HICOM_SCREENSHOTS", tmp_path)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = Window(browser.new_page(viewport={"width": width, "height": 900}), address)
        page = window.page

        (tmp_path / "bad.mp4").write_text("this is no video")
        window.upload(tmp_path / "bad.mp4", "This video cannot be read")
        window.upload(example_videos()[0], "times fewer")
        window.ask("Which way does the cyan moon move?", "first token after")
        window.ask("How many blue moons are there?", "follow-up")
        page.get_by_text("Instruction and length").click()
        page.fill("#instruction textarea", "the striped diamond")
        before = window.attention()
        page.fill("#question textarea", "Which colour does it have?")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "ask"
        page.keyboard.press("Enter")
        page.wait_for_selector("#used:has-text('Compressed on: the striped diamond')")
        before = window.until_attention_is_another(before)

        page.fill("#number input[type=number]", "5")
        page.keyboard.press("Enter")
        before = window.until_attention_is_another(before)
        page.get_by_label("global").check()
        before = window.until_attention_is_another(before)
        page.get_by_label("local").check()
        before = window.until_attention_is_another(before)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=os.path.join(pictures, f"web_{width}.png"), full_page=True)

        page.fill("#instruction textarea", "")
        page.focus("#choose input")
        page.keyboard.press("Space")
        window.upload(film, "among 1.33 per second")  # what was open before is shorter
        window.ask("What colour is the striped circle?", "first question")
        page.wait_for_selector("#timeline svg rect:nth-of-type(5)")
        window.until_attention_is_another(before)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=os.path.join(pictures, f"web_choosing_{width}.png"), full_page=True)

        make_endless(engine.session)
        cancelled = engine.statistics.cancelled
        monkeypatch.setattr(engine, "limits", replace(engine.limits, max_new_tokens=10**8))
        monkeypatch.setattr("hicom_hf.serving.page.Settings", lambda **_: Settings(max_new_tokens=10**8))
        page.fill("#question textarea", "Describe the picture.")
        page.click("#ask")
        page.wait_for_selector("#chat .bot >> nth=1")
        page.click("#stop")
        with engine._changed:
            engine._changed.wait_for(lambda: engine.num_inside == 0)
        assert engine.statistics.cancelled == cancelled + 1
        browser.close()
    assert [url for url in window.asked if not url.startswith((address, "data:", "blob:"))] == []
