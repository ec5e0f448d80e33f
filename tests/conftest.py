"""Fixtures: tiny random models and small real videos, all made here, nothing downloaded."""

import gc
import os
import signal

import pytest
import torch

# Two cores are shared by everything that runs; more threads per process only make them wait for each other.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config):
    os.fsync = lambda descriptor: None  # it matters when the machine dies, not the process
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


def pytest_collection_finish(session):
    # Modules of torch and transformers are a million objects; each start of a trainer would search them for garbage, 0.3 s.
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_curves(monkeypatch):
    """Training draws no picture of its curves, which takes 0.2 s a run; tests/test_held_out.py looks at them."""
    monkeypatch.setattr("hicom_hf.training.run.draw_curves", lambda history, path: False)


@pytest.fixture(scope="session")
def model():
    """The tiny model of the paper's formulation (direct local, coarse global), evaluation mode. Do not change it."""
    from hicom_hf.assembly.random_model import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def processor(model):
    from hicom_hf.assembly.random_model import tiny_processor

    return tiny_processor(model.config)


@pytest.fixture
def make_endless(monkeypatch):
    """A function: until the test ends, a session's model ends no answer by itself and writes words only."""
    from hicom_hf.processors.answering_hicom import end_tokens

    def make(session):
        model, generation = session.model, session.model.generation_config
        unread = {*end_tokens(model), *session.processor.tokenizer.all_special_ids}  # a client sees none of them
        monkeypatch.setattr(generation, "suppress_tokens", sorted(unread), raising=False)
        monkeypatch.setattr(generation, "eos_token_id", None)
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 10**9)
        return session

    return make


@pytest.fixture(scope="session")
def world_films(tmp_path_factory):
    """A folder with two untrimmed films of the built-in world, and the takes of each by its file's name; not to be changed."""
    from hicom_hf.shapes import write_video
    from hicom_hf.shapes.films import film

    folder, takes = tmp_path_factory.mktemp("world_films"), {}
    for seed in range(2):
        frames, takes[f"film{seed:02}.mp4"] = film(seed)
        write_video(folder / f"film{seed:02}.mp4", frames, fps=8.0)
    return folder, takes


@pytest.fixture
def ctrl_c_interrupts():
    """A background job of a shell that is not interactive ignores SIGINT, and so would tests that run in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
