"""A Space of the Hugging Face Hub with the web page: its folder, and what its app.py runs.

On ZeroGPU, where the package `spaces` is installed, the model runs in the functions that ZeroGPU gives a GPU. Written to the
Hub's documentation; not verified on the Hub.
"""

import base64
import hashlib
import json
import os
import re
import zipfile
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ..assets import FOLDER, HICOM_TINY
from ..hub.files import atomic_folder

PYTHON = "3.11"  # with which the package is tested
EPOCH = (1980, 1, 1, 0, 0, 0)  # of files in a wheel, so that the same files give the same bytes
REPO = re.compile(r"[\w.-]+/[\w.-]+")

README = """\
---
title: {quoted}
emoji: 🎞️
colorFrom: indigo
colorTo: red
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
{models}tags:
- hicom
- video
- video-text-to-text
license: apache-2.0
short_description: Ask about a video and see the attention of the model
---

# {title}

Upload a video, ask about it, change the instruction that conditions the compression of its visual tokens, and see the
attention of the compressor. The page is `hicom web` of the package `hicom_hf`, whose wheel lies beside this file.

Made by `hicom space`. Not verified on ZeroGPU: there it runs the model in functions that `spaces.GPU` decorates, and features
stay on the CPU between calls.
"""

APP = '''\
"""The Space's page. The package comes from the wheel beside this file; `requirements.txt` holds what it needs."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

try:
    import spaces  # ZeroGPU wants to come before torch
except ImportError:
    spaces = None

HERE = Path(__file__).resolve().parent
if find_spec("hicom_hf") is None:
    installed = HERE / "installed"
    [wheel] = HERE.glob("hicom_hf-*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel]
    subprocess.run(command, check=True)
    sys.path.insert(0, str(installed))

from hicom_hf.serving.space import run_space

if __name__ == "__main__":
    run_space({model!r}, None if spaces is None else spaces.GPU)
'''


def write_space(folder: str | os.PathLike, model: str | None = None, title: str | None = None) -> Path:
    """Write the folder of a Space: README.md with its front matter, app.py, requirements.txt, and the wheel of this package.

    Args:
        folder: must not be there, or be empty.
        model: a Hub repo id, as OWNER/NAME; None for the packaged hicom-tiny.
        title: of the Space; None for one made of the model's name.

    Returns:
        The folder.

    Raises:
        FileExistsError: there is something already.
        ValueError: the model is no repo id.

    Example:
        >>> write_space("my-space", "somebody/hicom-7b")  # doctest: +SKIP
    """
    if model is not None and not REPO.fullmatch(model):
        raise ValueError(
            f"the model of a Space is a Hub repo id, as OWNER/NAME, got {model!r}; a Space has no local folders"
        )
    gradio = _gradio_version()
    title = title or f"HICom: {(model or HICOM_TINY).rpartition('/')[2]}"
    card = README.format(
        title=title,
        quoted=json.dumps(title, ensure_ascii=False),
        gradio=gradio,
        python=PYTHON,
        models=f"models:\n- {model}\n" if model else "",
    )
    with atomic_folder(folder) as written:
        (written / "README.md").write_text(card, encoding="utf-8")
        (written / "app.py").write_text(APP.format(model=model), encoding="utf-8")
        (written / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
        write_wheel(written)
    return Path(folder)


def _gradio_version() -> str:
    """The version of gradio that is installed."""
    try:
        return metadata.version("gradio")
    except metadata.PackageNotFoundError:
        raise ImportError(
            "a Space is written for the version of gradio that is installed; pip install 'hicom_hf[web]'"
        ) from None


def requirements() -> list[str]:
    """What the package needs for the page, one requirement a line; gradio in the version of the front matter."""
    found = metadata.requires("hicom_hf") or []
    own = sorted(line.partition(";")[0].strip() for line in found if "extra ==" not in line)
    return [*own, f"gradio=={_gradio_version()}"]


def write_wheel(folder: Path) -> Path:
    """The running package as a wheel, made of the files that run.

    Args:
        folder: to write into.
    """
    package = Path(__file__).parents[1]
    distribution = metadata.distribution("hicom_hf")
    name = f"hicom_hf-{distribution.version}"
    command = util.find_spec("hicom_command")
    files = {
        f"hicom_hf/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    if command is not None and command.origin is not None:
        files["hicom_command.py"] = Path(command.origin).read_bytes()
    about = f"{name}.dist-info"
    described = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")  # installed, or a source tree
    if described is None:
        raise FileNotFoundError("the metadata of hicom_hf are missing; install it again")
    files[f"{about}/METADATA"] = described.encode()
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: hicom_hf\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    record = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path, EPOCH), content, zipfile.ZIP_DEFLATED)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def run_space(model: str | None, gpu: Any = None) -> None:
    """Show the page in a Space, until it is stopped.

    Args:
        model: a Hub repo id; None for the packaged hicom-tiny.
        gpu: `spaces.GPU` on ZeroGPU; None elsewhere.
    """
    from tempfile import TemporaryDirectory

    from ..inference.session import HiComSession
    from ..processors.media_access_hicom import MediaAccess
    from .engine import Engine

    with TemporaryDirectory(prefix="hicom-space-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        from .web import launch_page  # gradio reads the variable when it is imported
        from .zero_gpu import ZeroGPUEngine

        session = HiComSession.load(model, device="auto" if gpu is None else "cuda", compile="off")
        access = MediaAccess.guarded(allowed_local_media_path=[uploads, FOLDER])
        if gpu is None:
            engine: Engine = Engine(session, access=access, keep_pictures=True)
        else:
            engine = ZeroGPUEngine(session, gpu, access=access)
        with engine:
            host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
            launch_page(engine, model or HICOM_TINY, host, int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
