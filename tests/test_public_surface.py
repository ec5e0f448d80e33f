"""What the packages export, and that training from Python works as docs/training.md writes it."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import recipe_values, write_data, write_model

DOCS = Path(__file__).resolve().parents[1] / "docs"


def marked(name):
    """The code block of docs/training.md that follows `<!-- snippet: name -->`."""
    text = (DOCS / "training.md").read_text()
    return re.search(rf"<!-- snippet: {name} -->\n```python\n(.*?)\n```", text, re.DOTALL)[1]


@pytest.mark.parametrize("package", ["hicom_hf", "hicom_hf.data", "hicom_hf.training", "hicom_hf.inference"])
def test_everything_that_a_package_exports_is_there(package):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_an_unknown_name_of_training_is_an_attribute_error():
    with pytest.raises(ImportError, match="cannot import name 'HiComTeacher'"):
        from hicom_hf.training import HiComTeacher  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_recipes_are_read_without_accelerate():
    code = "import sys; sys.modules['accelerate'] = None; from hicom_hf.training import read_recipe, LearningRates"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_is_typed_and_says_so():
    import hicom_hf

    assert (Path(hicom_hf.__file__).parent / "py.typed").is_file()
    assert re.search(r"^    py\.typed$", (DOCS.parent / "setup.cfg").read_text(), re.MULTILINE)


def functions_of(name, exported):
    """A public function, or those of a class that one calls, with their names."""
    if inspect.isfunction(exported):
        yield name, exported
    for method, found in vars(exported).items() if inspect.isclass(exported) else ():
        found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        called = not method.startswith("_") or method in ("__init__", "__call__", "__getitem__", "__iter__", "__len__")
        if inspect.isfunction(found) and found.__module__.startswith("hicom_hf") and called:
            yield f"{name}.{method}", found


@pytest.mark.parametrize(
    "package", ["", ".assembly", ".conversion", ".data", ".evaluation", ".hub", ".inference", ".shapes", ".training"]
)
def test_public_functions_are_annotated(package):
    module = importlib.import_module(f"hicom_hf{package}")
    lacking = []
    for exported in module.__all__:
        for name, function in functions_of(exported, getattr(module, exported)):
            signature = inspect.signature(function)
            values = {
                key: value.annotation for key, value in signature.parameters.items() if key not in ("self", "cls")
            }
            values |= {} if name.endswith("__init__") else {"return": signature.return_annotation}
            lacking += [f"{name}: {key}" for key, value in values.items() if value is inspect.Signature.empty]
    assert not lacking


def test_training_from_python_runs_as_the_docs_write_it(tmp_path, monkeypatch):
    write_model(tmp_path / "hicom-7b")
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(marked("python"), namespace)
    assert namespace["trainer"].state.global_step == 2


def test_a_recipe_runs_from_python_as_the_docs_write_it(tmp_path, monkeypatch):
    import yaml

    values = recipe_values("alignment", write_model(tmp_path / "init"), write_data(tmp_path), tmp_path / "run")
    (tmp_path / "my_recipe.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    exec(marked("recipe"), {})
    assert (tmp_path / "run/model/config.json").is_file()
