"""What setup.cfg promises about other packages holds for what is installed, and refuses what is known not to work."""

import configparser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REFUSED = {
    # no threads=; hangs in forked workers; crashes on program streams; never run with this package
    "av": ("16.1.0", "17.0.0", "17.0.1", "20.0.0"),
    "transformers": ("5.22.0", "5.25.0"),
    "peft": ("0.19.0",),  # refused by transformers 5.23
    "bitsandbytes": ("0.46.0",),  # likewise
    "accelerate": ("1.10.0",),  # device_map="auto" fails where all lands on disk
    "datasets": ("4.0.0",),  # other column types of webdataset shards
    "deepspeed": ("0.9.3", "0.16.9"),  # their source packages do not build with today's torch
    "flash-attn": ("2.3.2",),  # refused by transformers 5.23
}
DOCS = {"mkdocs", "mkdocs-material", "mkdocstrings"}  # installed by .ci/run after the tests
ALLOWED = {"deepspeed": ("0.19.8",), "av": ("17.1.0", "18.1.0", "19.0.2"), "transformers": ("5.23.0", "5.24.0")}


def requirements() -> dict[str, Requirement]:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    # What the core says of a package counts before what an extra adds to it.
    texts = [*config["options.extras_require"].values(), config["options"]["install_requires"]]
    found = [Requirement(line) for text in texts for line in text.split("\n") if line and not line.startswith("%(")]
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize(
    ("name", "version"), [(name, version) for name, versions in REFUSED.items() for version in versions]
)
def test_versions_that_do_not_work_are_refused(name, version):
    assert version not in requirements()[name].specifier


@pytest.mark.parametrize(
    ("name", "version"), [(name, version) for name, versions in ALLOWED.items() for version in versions]
)
def test_versions_that_work_are_allowed(name, version):
    assert version in requirements()[name].specifier


def test_training_waits_for_a_peft_that_the_next_transformers_takes():
    # transformers 5.24 refuses peft below 0.22, which is not released: a fresh install must end in a LoRA that loads.
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    train = {line.name: line for line in map(Requirement, config["options.extras_require"]["train"].split())}
    assert "5.24.0" not in train["transformers"].specifier and "5.23.0" in train["transformers"].specifier


@pytest.mark.parametrize(
    "name",
    sorted(requirements().keys() - {"flash-attn", "deepspeed", "liger-kernel", "build", "pyright", "ruff"} - DOCS),
)
def test_the_tested_version_is_allowed(name):
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"no extra that needs {name} is installed")
    assert metadata.version(name) in requirements()[name].specifier


@pytest.mark.parametrize("name", ["torch", "transformers", "safetensors", "huggingface_hub", "av", "pillow", "numpy"])
def test_what_the_core_needs_has_a_lower_bound(name):
    assert any(part.operator in (">=", "==", "~=") for part in requirements()[name].specifier)


def test_the_version_is_the_same_wherever_it_stands():
    root = Path(__file__).parents[1]
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    version = config["metadata"]["version"]
    assert f'__version__ = "{version}"\n' in (root / "src/hicom_hf/__init__.py").read_text()
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text()
