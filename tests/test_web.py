"""The web page, by its methods, and driven by headless Chromium."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from hicom_hf.assets import FOLDER, example_videos
from hicom_hf.inference import HiComSession
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.serving.engine import Engine

pytest.importorskip("gradio", reason="the extra web is not installed")

from hicom_hf.serving.web import Page

QUESTION = "What colour is the ring?"


@pytest.fixture(scope="module")
def page():
    session = HiComSession.load(dtype="float32", device="cpu")
    access = MediaAccess.guarded(allowed_local_media_path=FOLDER)
    with Engine(session, access=access, num_workers=0) as engine:
        yield Page(engine)


def last(steps):
    *_, step = steps
    return step


def test_a_video_shows_its_frames_and_what_compression_saves(page):
    visit, shown, about = page.open(str(example_videos()[0]), 4)
    assert len(shown) == 4 and shown[0][1] == f"{visit.times[0]:.2f} s"
    tokens = page.config.num_visual_tokens(4)
    assert f"4 frames, {4 * page.config.grid[0] * page.config.grid[1]:,} patches → **{tokens:,} tokens**" in about


def test_a_chat_streams_the_answers_of_the_session_and_keeps_its_turns(page):
    alone = page.engine.session.open(example_videos()[0], num_frames=4).ask(QUESTION)
    page.engine.session.cache.clear()
    visit, _, _ = page.open(str(example_videos()[0]), 4)
    chat, visit, line = last(page.ask(QUESTION, [], visit, "", 64))
    assert [turn["content"] for turn in chat] == [QUESTION, alone.answer]
    assert f"Compressed on: **{QUESTION}**" in line and "first question" in line
    chat, visit, line = last(page.ask("Where is it?", chat, visit, "the ring", 64))
    assert "Compressed on: **the ring**" in line and "follow-up" in line and len(visit.turns) == 4
    for branch in ("local", "global"):
        pictures = [page.attention(visit, number, branch) for number in (1, 4, 99)]
        assert pictures[0].size == visit.frames.shape[1:3] and pictures[0] != pictures[1] == pictures[2]


def test_errors_are_texts_of_the_page(page, tmp_path):
    assert page.open(None, 4) == (None, [], "Choose a video.")
    (tmp_path / "a.mp4").write_text("no video")
    assert "**This video cannot be read.** the video: local files" in page.open(str(tmp_path / "a.mp4"), 4)[2]
    chat, *_ = last(page.ask(QUESTION, [], None, "", 64))
    assert chat[-1]["content"] == "Choose a video first."
    visit, _, _ = page.open(str(example_videos()[0]), 4)
    chat, *_ = last(page.ask(QUESTION, [], visit, "", 10**6))
    assert chat[-1]["content"].startswith("**Error:** max_tokens is 1000000, more than")


def test_stopping_ends_the_answer(page, monkeypatch):
    monkeypatch.setattr(page.engine.session.model.generation_config, "eos_token_id", None)
    visit, _, _ = page.open(str(example_videos()[0]), 4)
    steps = page.ask("Describe the picture.", [], visit, "", 400)
    next(steps)
    cancelled = page.engine.statistics.cancelled
    steps.close()
    deadline = time.monotonic() + 30
    while page.engine.num_inside and time.monotonic() < deadline:
        time.sleep(0.01)
    assert page.engine.statistics.cancelled == cancelled + 1


# In a browser --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def address():
    command = [sys.executable, "-m", "hicom_hf.cli.main", "web", "--port", "7867", "--workers", "0"]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    address, deadline = "http://127.0.0.1:7867", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_uploads_asks_and_looks(address, width, tmp_path):
    browsers = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    pictures = os.environ.get("HICOM_SCREENSHOTS", tmp_path)
    with browsers.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": width, "height": 900})
        asked = []
        window.on("request", lambda request: asked.append(request.url))
        window.set_default_timeout(60_000)
        window.goto(address)
        window.set_input_files("input[type=file]", str(example_videos()[0]))
        window.wait_for_selector("#about:has-text('times fewer')")
        for question, kind in ((QUESTION, "first question"), ("How many objects are there?", "follow-up")):
            window.fill("#question textarea", question)
            window.click("#ask")
            window.wait_for_selector(f"#used:has-text('{kind}')")
        window.get_by_text("Instruction and length").click()
        window.fill("#instruction textarea", "the ring")
        window.fill("#question textarea", QUESTION)
        window.click("#ask")
        window.wait_for_selector("#used:has-text('Compressed on: the ring')")
        before = window.wait_for_selector("#attention img").get_attribute("src")
        window.fill("#number input[type=number]", "5")
        window.keyboard.press("Enter")
        window.wait_for_function("before => document.querySelector('#attention img').src != before", arg=before)
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        window.screenshot(path=os.path.join(pictures, f"web_{width}.png"), full_page=True)
        browser.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
