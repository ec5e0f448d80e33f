"""Fixtures: tiny random models and small real videos, all made here, nothing downloaded."""

import os

import pytest
import torch

# Two cores are shared by everything that runs; more threads per process only make them wait for each other.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config):
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model():
    """The tiny model of the paper's formulation (direct local, coarse global), evaluation mode. Do not change it."""
    from hicom_hf.assembly.random_model import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def processor(model):
    from hicom_hf.assembly.random_model import tiny_processor

    return tiny_processor(model.config)
