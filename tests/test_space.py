"""`hicom space`: the folder, the wheel in it, the engine for ZeroGPU, and the page started from its requirements."""

import os
import subprocess
import sys
import urllib.request
import zipfile

import pytest
import yaml

from hicom_hf.assets import example_videos
from hicom_hf.cli.main import main
from hicom_hf.inference import HiComSession
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.requests import Request, Settings, VideoSource
from hicom_hf.serving.zero_gpu import ZeroGPUEngine


def test_the_folder_of_a_space_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr("hicom_hf.serving.space._gradio_version", lambda: "6.31.0")
    assert main(["space", str(tmp_path / "space"), "--model", "somebody/hicom-7b", "--title", 'A "title": mine']) == 0
    assert main(["space", str(tmp_path / "space")]) == 1  # is there already
    assert main(["space", str(tmp_path / "other"), "--model", "/a/folder"]) == 1
    folder = tmp_path / "space"
    [wheel] = folder.glob("hicom_hf-*-py3-none-any.whl")
    assert {path.name for path in folder.iterdir()} == {"README.md", "app.py", "requirements.txt", wheel.name}
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["title"] == 'A "title": mine' and front["models"] == ["somebody/hicom-7b"]
    assert front["sdk"] == "gradio" and front["sdk_version"] == "6.31.0" and front["app_file"] == "app.py"
    assert len(front["short_description"]) <= 60
    needed = (folder / "requirements.txt").read_text()
    assert "gradio==6.31.0" in needed and "transformers<" in needed and "pytest" not in needed
    app = (folder / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert "run_space('somebody/hicom-7b', None if spaces is None else spaces.GPU)" in app
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        described = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "Name: hicom_hf" in described.replace("-", "_") and "Version: " in described
    assert {"hicom_hf/assets/hicom-tiny/model.safetensors", "hicom_hf/serving/web.py", "hicom_command.py"} <= names


def test_the_engine_of_zero_gpu_gives_the_answers_of_the_engine_and_keeps_features_on_the_cpu():
    session, calls = HiComSession.load(dtype="float32", device="cpu"), []

    def gpu(duration):
        def decorate(function):
            def called(*arguments):
                calls.append(function.__name__)
                return function(*arguments)

            return called

        return decorate

    content = [{"type": "video"}, {"type": "text", "text": "What colour is the ring?"}]
    turns, settings = [{"role": "user", "content": content}], Settings(max_new_tokens=8)
    request = Request(turns, [VideoSource(str(example_videos()[0]), {"num_frames": 4})], settings=settings)
    options = {"access": MediaAccess.open(), "num_workers": 0}
    with Engine(session, **options) as engine:
        expected = engine.submit(request).future.result().texts
    session.cache.clear()
    pieces = []
    with ZeroGPUEngine(session, gpu, **options) as engine:
        results = [engine.submit(request, lambda _, text: pieces.append(text)).future.result() for _ in range(2)]
        engine.attention(results[0].videos[0], "the ring")
    assert [result.texts for result in results] == [expected, expected]
    assert pieces == expected * 2 and results[1].num_cached_tokens > 0
    assert calls == ["encode", "answer", "answer", "attend"]
    assert results[0].videos[0].features["features"].device.type == "cpu"


@pytest.mark.slow
def test_a_space_starts_from_its_folder(tmp_path):
    """`HICOM_SPACE_PYTHON` names the Python of an environment with its requirements; without it, the package runs from its wheel
    beside the packages of this environment.
    """
    pytest.importorskip("gradio", reason="the extra web is not installed")
    assert main(["space", str(tmp_path / "space")]) == 0
    python = os.environ.get("HICOM_SPACE_PYTHON", sys.executable)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "7871", "PYTHONUNBUFFERED": "1"}
    command = [python, "app.py"]
    with subprocess.Popen(
        command, cwd=tmp_path / "space", env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if "7871" in line:
                break
        with urllib.request.urlopen("http://127.0.0.1:7871", timeout=60) as response:
            content = response.read().decode()
        process.kill()
    assert "HICom: hicom-tiny" in content
