"""Runs a core set of tests with versions that setup.cfg allows: python tests/versions/run.py oldest|newest|train

oldest: every lower bound. newest: what pip takes for the core, which may be newer than the extra `train` allows. train: what pip
takes for `pip install -e ".[train]"`, which must end in a LoRA that loads.

What goes in: the bounds of setup.cfg. What comes out: the versions that pip chose, and pytest's result as the exit code.
The environment is made in a temporary folder (`--keep FOLDER` keeps it) with the Python that runs this script. `--torch VERSION`
takes another torch than the set has; for a build without CUDA pass its index, as in
`--pip=--index-url=https://download.pytorch.org/whl/cpu` or a folder of wheels, `--pip=--find-links=wheels`.
"""

import argparse
import configparser
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Reading, model, processor, pipeline and Hub code: what other versions of the dependencies broke before.
CORE = (
    "test_requirements.py",
    "test_video_reading.py",
    "test_media_files.py",
    "test_damage.py",
    "test_video_processing.py",
    "test_processing.py",
    "test_modeling.py",
    "test_decoding.py",
    "test_pipeline.py",
)
ADAPTERS = ("test_requirements.py", "test_adapters.py", "test_places.py")
# Set -> its extras and its tests.
SETS = {
    "oldest": (("train", "qlora", "convert", "plots"), (*CORE, "test_adapters.py")),
    "newest": (("convert", "plots"), CORE),
    "train": (("train", "qlora", "convert"), ADAPTERS),
}


def main() -> int:
    """Makes the environment, installs the set, prints its versions, and runs the core set or the tests that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument(
        "tests", nargs="*", help="files of tests/, and options of pytest behind --; default: those of the set"
    )
    parser.add_argument("--torch", help="version of torch in place of the set's own")
    parser.add_argument("--pip", action="append", default=[], metavar="OPTION", help="handed on to pip")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="make the environment there, or use the one that is there, and keep it"
    )
    args = parser.parse_intermixed_args()
    extras, tests = SETS[args.set]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        constraints = folder / "constraints.txt"
        lines = oldest() if args.set == "oldest" else []
        if args.torch:
            lines = [line for line in lines if not line.startswith("torch==")] + [f"torch=={args.torch}"]
        constraints.write_text("\n".join(lines))
        packages = ["-e", f"{ROOT}[{','.join(extras)}]", "pytest", "pytest-timeout"]
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, *args.pip, *packages], check=True)
        subprocess.run([python, "-m", "pip", "list", "--format=freeze"], check=True)
        tests = [str(ROOT / "tests" / test) if test.endswith(".py") else test for test in args.tests or tests]
        command = [python, "-m", "pytest", "-q", "-m", "not slow and not gpu", *tests]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def oldest() -> list[str]:
    """Constraints that hold every requirement of setup.cfg at its lower bound, with any patch version of it.

    Example:
        "av>=17.1,<20" becomes "av==17.1.*".
    """
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [
        config["options"]["install_requires"],
        *(config["options.extras_require"][name] for name in SETS["oldest"][0]),
    ]
    found = [re.match(r"([\w-]+)>=([\w.]+)", line.strip()) for text in texts for line in text.split("\n")]
    bounds = dict(match.groups() for match in found if match)
    return [f"{name}=={bound if '.' in bound else f'{bound}.0'}.*" for name, bound in bounds.items()]


if __name__ == "__main__":
    sys.exit(main())
