"""The documentation keeps its word: the reference has every exported name, code compiles, commands parse, snippets run.

Links, anchors and the navigation are checked by `mkdocs build --strict`, a step of `.ci/run`.
"""

import ast
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from hicom_hf.assets import example_videos, hicom_tiny

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "lab/README.md", "benchmarks/README.md")),
]
PACKAGES = {
    "hicom_hf": "hicom_hf",
    "hicom_hf.inference": "inference",
    "hicom_hf.data": "data",
    "hicom_hf.training": "training",
    "hicom_hf.evaluation": "evaluation",
    "hicom_hf.serving": "serving",
    "hicom_hf.dataset_building": "dataset_building",
    "hicom_hf.shapes": "shapes",
    "hicom_hf.conversion": "conversion",
    "hicom_hf.assembly": "models",
    "hicom_hf.hub": "models",
}
EXTRAS = {"make_page": "gradio", "make_app": "fastapi", "ServerOptions": "fastapi"}


def blocks(language: str) -> list:
    """Every fenced block of a language, as a test parameter (page, code)."""
    found = []
    for page in PAGES:
        for number, code in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE), 1
        ):
            found.append(pytest.param(page, code, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


def commands() -> list:
    """Every `hicom` command of a fenced or indented block, as a test parameter."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        for line in dict.fromkeys(re.findall(r"^(?:\$ | {4})?(hicom [a-z].*)$", text, re.MULTILINE)):
            found.append(pytest.param(line, id=f"{page.relative_to(ROOT)}: {line[:60]}"))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_has_every_exported_name(package):
    page = (ROOT / "docs/api" / f"{PACKAGES[package]}.md").read_text()
    shown = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)) | set(re.findall(r"\[\w+\]\[([\w.]+)\]", page))
    module = importlib.import_module(package)
    for name in module.__all__:  # a function with the name of its module is shown by its whole path
        if package == "hicom_hf.shapes" and name.isupper():
            continue  # constants that docs/shapes.md lists
        homes = {path for home in PACKAGES for path in (f"{home}.{name}", f"{home}.{name}.{name}")}
        assert homes & shown, f"docs/api/{PACKAGES[package]}.md does not show {package}.{name}"


def test_the_reference_shows_objects_and_no_modules():
    for page in (ROOT / "docs/api").glob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            assert not (ROOT / "src" / f"{path.replace('.', '/')}.py").exists(), (
                f"{page.name}: {path} is a module as well"
            )


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_has_a_docstring_of_its_own(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        if name in EXTRAS:
            pytest.importorskip(EXTRAS[name])
        value = getattr(module, name)
        if not (inspect.isclass(value) or callable(value)):
            continue
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), f"{package}.{name} has no docstring"
        methods = vars(value).items() if inspect.isclass(value) and value.__module__.startswith("hicom_hf") else ()
        for method, function in methods:
            function = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
            if (
                inspect.isfunction(function)
                and not method.startswith("_")
                and function.__module__.startswith("hicom_hf")
            ):
                assert function.__doc__, f"{package}.{name}.{method} has no docstring"


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_in_the_docs_compiles(page, code):
    ast.parse(code, filename=str(page))


@pytest.mark.parametrize(("page", "code"), [*blocks("yaml"), *blocks("json")])
def test_settings_in_the_docs_are_well_formed(page, code):
    (json.loads if code.lstrip().startswith(("{", "[")) else yaml.safe_load)(code)


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_docs_have_the_arguments_that_they_are_given(line):
    from hicom_hf.cli.main import build_parser

    build_parser().parse_args(shlex.split(line, comments=True)[1:])


def test_files_that_the_architecture_names_exist():
    text = (ROOT / "docs/architecture.md").read_text()
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        assert (ROOT / "src/hicom_hf" / path).exists() or (ROOT / path).exists(), path
    folders = {path.name for path in (ROOT / "src/hicom_hf").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) - {
        "lab",
        "tests",
        "benchmarks",
        "examples",
    }


def test_links_between_pages_lead_to_pages_of_the_site():
    """The strict build takes minutes, and only `.ci/run` does it; this finds a link to a file that the site has not."""
    hook = (ROOT / "docs/site/pages.py").read_text()
    outside = set(ast.literal_eval(re.search(r"^OUTSIDE = (\{.*?^\})", hook, re.DOTALL | re.MULTILINE).group(1)))
    lost = []
    for page in [*(ROOT / "docs").glob("**/*.md"), *(ROOT / path for path in outside)]:
        text = re.sub(r"^ *```.*?^ *```|^ {4}.*?$|`[^`\n]+`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(\s*([^)\s#:]+)(?:#[^)\s]*)?\s*\)", text):
            path = (page.parent / target).resolve()
            of_site = path.is_relative_to(ROOT / "docs") or path.relative_to(ROOT).as_posix() in outside
            if not (of_site and path.is_file()):
                lost.append((page.name, target))
    assert lost == []


def test_docstrings_name_methods_of_public_classes_that_the_reference_has():
    """`Class.name` becomes a link, and fields of a class have no place of their own: write "`name` of `Class`"."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    classes = {path.rpartition(".")[2]: path for path in re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)}
    lost = set()
    for path in (ROOT / "src/hicom_hf").rglob("*.py"):
        for name, member in re.findall(r"(?<![`\[])`([A-Z]\w+)\.([a-z]\w+)`(?![`\]])", path.read_text()):
            if name in classes:
                module, _, attribute = classes[name].rpartition(".")
                found = getattr(getattr(importlib.import_module(module), attribute), member, None)
                if not (callable(found) or isinstance(found, property)):
                    lost.add((path.name, f"{name}.{member}"))
    assert lost == set()


def test_the_architecture_leads_to_each_file_and_to_its_test():
    text = (ROOT / "docs/architecture.md").read_text()
    package = ROOT / "src/hicom_hf"
    found_by_folder = {"cli", "evaluation/tasks"}  # one file per sub-command, one per benchmark
    paths = {path.relative_to(package).as_posix() for path in package.glob("*/**/*.py") if path.name != "__init__.py"}
    unnamed = {path for path in paths if f"`{path}`" not in text and path.rpartition("/")[0] not in found_by_folder}
    assert unnamed == set()
    tables = text[text.index("## Where to look") : text.index("## Two formulations")]
    tests = [name for row in re.findall(r"\|([^|]+)\|$", tables, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert {name for name in tests if not (ROOT / f"tests/test_{name}.py").exists()} == set()
    assert len(set(tests)) > 60


@pytest.mark.parametrize("page", ["asking.md", "instruction.md", "hicom_tiny.md", "shapes.md"])
def test_snippets_about_the_packaged_model_and_world_run(page, capsys):
    for param in blocks("python"):
        path, code = param.values
        if path.name == page:
            exec(compile(code, page, "exec"), {})
            printed = capsys.readouterr().out
            for expected in re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE):
                assert expected in printed


@pytest.mark.parametrize("page", ["long_video.md", "tiles.md"])
def test_snippets_about_any_film_run_on_an_example(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = [param.values[1] for param in blocks("python") if param.values[0].name == page]
    assert codes
    code = "\n".join(codes).replace("hicom-7b", str(hicom_tiny())).replace("film.mp4", str(example_videos()[2]))
    exec(compile(code, page, "exec"), {})
