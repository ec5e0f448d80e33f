"""The package as a tree: no loose modules, no circle of files or packages, only the command line imports it, short functions."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import hicom_hf

PACKAGE = Path(hicom_hf.__file__).parent
LOOSE = {"__init__.py", "__main__.py"}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def imported_modules(name):
    """The modules of the package that a module imports, also within functions and for types only."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                module = f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source
                if module in MODULES:
                    yield module


IMPORTS = {name: set(imported_modules(name)) - {name} for name in MODULES}


def room(name):
    return name.split(".")[1] if "." in name else "hicom_hf"


def test_only_the_starter_lies_at_the_root():
    assert {path.name for path in PACKAGE.glob("*.py")} == LOOSE
    assert len([path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]) <= 22


def test_no_circle_of_files():
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}  # they export what lies below
    files = {name: imported - packages for name, imported in IMPORTS.items() if name not in packages}
    TopologicalSorter(files).prepare()  # raises CycleError, with the circle


def test_no_circle_of_packages():
    rooms = {}
    for name, imported in IMPORTS.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in imported)
    TopologicalSorter({name: others - {name, "hicom_hf"} for name, others in rooms.items()}).prepare()


def test_no_library_file_imports_the_command_line():
    importers = {name for name, imported in IMPORTS.items() if any(room(other) == "cli" for other in imported)}
    assert {name for name in importers if room(name) != "cli"} == {"hicom_hf.__main__"}


def code_lines(function, lines):
    """Lines of a function's body without its docstring, empty lines and comments."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    if not body:
        return 0
    stripped = (line.strip() for line in lines[body[0].lineno - 1 : function.end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in stripped)


def test_no_function_is_longer_than_60_lines_of_code():
    longer = {}
    for name, tree in TREES.items():
        lines = SOURCES[name].splitlines()
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = code_lines(node, lines)
                if length > 60:
                    longer[f"{name}.{node.name}"] = length
    assert longer == {}
