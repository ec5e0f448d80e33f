"""transformers' own tests of models and processors, from its source package, on HICom's classes.

A wheel has no tests; the source package of the installed version is fetched with pip, and the test is skipped where that fails.
The package lacks the mixins of generation and of export, and the list of tiny models that the mixin of pipelines reads.
Those are run too if HICOM_TRANSFORMERS_SOURCE names a checkout of transformers.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers
from PIL import Image
from transformers_mixins.expected import EXPECTED_FAILURES

CASES = Path(__file__).parent / "transformers_mixins"
MEDIA = {
    ".mp4": Path(__file__).parents[1] / "src/hicom_hf/assets/videos/shapes_normal.mp4",
}
# What the mixins import of transformers' repository that its source package lacks.
STAND_INS = {
    "__init__.py": "",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
}
FETCHING = """
from pathlib import Path
FILES = {files!r}
def url_to_local_path(url, return_url_if_not_found=True):
    return FILES.get(Path(url.split("?")[0]).suffix, FILES[".jpg"])
"""


def pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"pip could not fetch what the mixins need: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def mixins(tmp_path_factory):
    """A folder to import `transformers_tests`, the mixins, from."""
    folder = tmp_path_factory.mktemp("mixins")
    checkout = os.environ.get("HICOM_TRANSFORMERS_SOURCE")
    pip("install", "-q", "--no-deps", "--target", folder, "parameterized")
    if checkout:
        source = Path(checkout)
    else:
        wanted = f"transformers=={transformers.__version__}"
        pip("download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d", folder, wanted)
        with tarfile.open(next(folder.glob("transformers-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = folder / f"transformers-{transformers.__version__}"
    shutil.copytree(
        source / "tests", folder / "transformers_tests", ignore=shutil.ignore_patterns("models", "fixtures")
    )
    for name, text in STAND_INS.items():
        path = folder / "transformers_tests" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(text)
    picture = folder / "picture.jpg"
    Image.new("RGB", (64, 48), "red").save(picture)
    files = {suffix: str(path) for suffix, path in {**MEDIA, ".jpg": picture}.items()}
    (folder / "fetch_hub_objects_for_ci.py").write_text(FETCHING.format(files=files))
    summary = (
        folder / "tests" / "utils" / "tiny_model_summary.json"
    )  # of models on the Hub; read from there by its path
    summary.parent.mkdir(parents=True)
    known = source / "tests" / "utils" / summary.name
    summary.write_text(known.read_text() if known.exists() else "{}")
    (folder / "src").mkdir()  # from where the mixin of pipelines reads the package
    (folder / "src" / "transformers").symlink_to(Path(transformers.__file__).parent)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def outcomes(mixins, cases):
    """Class and name of each test -> "passed", "skipped" or the message of its failure."""
    report = mixins / f"{cases}.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--noconftest",
        "-c",
        mixins / "pytest.ini",
        "-p",
        "no:cacheprovider",
    ]
    paths = [str(mixins), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1] / "src")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, f"--junitxml={report}", CASES / f"{cases}.py"],
        cwd=mixins,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for test in ElementTree.parse(report).iter("testcase"):
        name = f"{test.get('classname', '').rpartition('.')[2]}.{test.get('name')}"
        results = [child for child in test if child.tag in ("failure", "error", "skipped")]
        result = "passed" if not results else results[0].tag
        found[name] = result if result in ("passed", "skipped") else results[0].get("message", "")
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cases", sorted(EXPECTED_FAILURES))
def test_transformers_own_tests_fail_only_where_a_reason_is_written(mixins, cases):
    found = outcomes(mixins, cases)
    failed = {name: result for name, result in found.items() if result not in ("passed", "skipped")}
    print({result: list(found.values()).count(result) for result in ("passed", "skipped")}, "failed:", len(failed))
    patterns = {pattern for names in EXPECTED_FAILURES[cases].values() for pattern in names}
    unexpected = {name: text for name, text in failed.items() if not any(fnmatch(name, one) for one in patterns)}
    assert unexpected == {}
    assert {one for one in patterns if not any(fnmatch(name, one) for name in failed)} == set(), "these pass now"
