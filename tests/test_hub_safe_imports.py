"""What ships with the weights is flat and self-contained, as the scanner of transformers sees it."""

import ast
import configparser
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

import hicom_hf

PACKAGE = Path(hicom_hf.__file__).parent
FILES = sorted(
    path
    for folder in ("modeling", "processors")
    for path in (PACKAGE / folder).glob("*.py")
    if path.name != "__init__.py"
)
IMPORT_NAMES = {"pillow": "PIL"}


def core_dependencies():
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).parents[1] / "setup.cfg")
    required = config["options"]["install_requires"].split()
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in required]
    return {IMPORT_NAMES.get(name, name) for name in names}


def imports_in(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def relative_imports(path):
    return [
        node for node in imports_in(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level
    ]


def name(path):
    return path.name


@pytest.mark.parametrize("path", FILES, ids=name)
def test_relative_imports_name_a_file_of_the_same_folder(path):
    for node in relative_imports(path):
        assert node.level == 1 and node.module and "." not in node.module, f"line {node.lineno}"
        assert (path.parent / f"{node.module}.py").is_file(), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_scanner_of_transformers_finds_the_same_relative_imports_as_python(path):
    assert sorted(get_relative_imports(path)) == sorted({node.module for node in relative_imports(path)})


@pytest.mark.parametrize("path", FILES, ids=name)
def test_what_the_scanner_requires_is_a_core_dependency(path):
    third_party = set(get_imports(path)) - set(sys.stdlib_module_names)
    assert third_party <= core_dependencies()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "modeling"], ids=name)
def test_annotations_are_not_postponed_where_transformers_reads_the_config_class_from_them(path):
    assert "from __future__ import annotations" not in path.read_text()


def test_file_names_are_unique_once_the_folders_are_flattened():
    assert [file for file, count in Counter(path.name for path in FILES).items() if count > 1] == []


def test_nothing_shipped_imports_the_package():
    names = {
        module
        for path in FILES
        for node in imports_in(ast.parse(path.read_text()))
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert not {module for module in names if module.split(".")[0] == "hicom_hf"}
