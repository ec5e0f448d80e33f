"""LangChain's ChatOpenAI and LiteLLM against `hicom serve`, in an environment of their own, as their pins need not fit ours.

`HICOM_CLIENTS_PYTHON` names the Python of such an environment (`pip install langchain-openai litellm`); without it one is made.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hicom_hf.assets import example_videos
from hicom_hf.inference import HiComSession

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("openai")

from test_serve_command import Server

PACKAGES = ("langchain-openai", "litellm")
QUESTION = "What colour is the ring?"


@pytest.fixture
def python(tmp_path):
    """The Python of an environment with the clients."""
    if given := os.environ.get("HICOM_CLIENTS_PYTHON"):
        return given
    folder = tmp_path / "clients"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed: {installed.stderr.strip()[-200:]}")
    return python


@pytest.mark.slow
def test_langchain_and_litellm_get_the_answers_of_the_session(python):
    expected = HiComSession.load(dtype="float32", device="cpu").open(example_videos()[0]).ask(QUESTION)
    with Server("--dtype", "float32", "--device", "cpu") as server:
        script = Path(__file__).with_name("serving_clients.py")
        command = [python, script, server.address, example_videos()[0], QUESTION]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr[-2000:]
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers.pop("langchain tokens") == expected.num_new_tokens and answers.pop("langchain fewer tokens")
    assert len(answers) == 7 and set(answers.values()) == {expected.answer}
