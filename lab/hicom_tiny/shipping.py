"""From a finished run to the folder that the package carries: no code, but where the weights come from and how good they are."""

import hashlib
import json
import shutil
from pathlib import Path

from hicom_hf.hub.files import write_text
from hicom_hf.hub.new_folder import new_folder

from .data_sets import STAGES
from .evaluating import as_markdown
from .making import stage_folder

LEFT_OUT = ("*.py", "__pycache__", "README.md", "recipe.yaml", "example.mp4")  # the package has its own
MADE_WITH, SCORES = RECORD_FILES = ("made_with.json", "scores.json")  # beside the stages, see `making`
WEIGHTS = "model.safetensors"

CARD = """\
---
library_name: transformers
license: apache-2.0
pipeline_tag: video-text-to-text
tags:
- hicom
- video-text-to-text
---

# hicom-tiny

A HICom ([Liu et al., CVPR 2025](https://arxiv.org/abs/2503.16036)) of 2.2 million parameters that comes with the package
`hicom_hf`. It was trained from scratch on the package's synthetic world of moving shapes and **knows nothing else**: about any
other video its answers mean nothing. Its purpose is to show the method, to try code, and to test it.

## Training

Commit `{commit}`, seed {seed}, {minutes:.0f} minutes on two CPU cores. This command runs all steps:

```
python -m lab.hicom_tiny FOLDER --seed {seed}
```

`made_with.json` contains, for each step of these weights, its commit, what started it, and its seconds; also versions, sizes
and the SHA-256 of the weights. The recipes are in `lab/hicom_tiny/recipes`.

## Correct answers (%)

{scores}

Free answers, compared word by word. Each row is another set of unseen videos. `scores.json` has all numbers.
"""


def ship(folder: str | Path, destination: str | Path, overwrite: bool = False) -> Path:
    """Write the finished model of a run for shipping.

    Args:
        folder: of `make_tiny`, with scores.json.
        destination: a new folder.
        overwrite: replace the model folder that is there.

    Returns:
        The destination.

    Raises:
        FileNotFoundError: the run is not finished, or was not scored.
    """
    folder, destination = Path(folder), Path(destination)
    model = stage_folder(folder, STAGES[-1])
    for path in (model, *(folder / name for name in RECORD_FILES)):
        if not path.exists():
            raise FileNotFoundError(f"{path}: it is missing; finish the run and score it first")
    made_with, scores = (json.loads((folder / name).read_text(encoding="utf-8")) for name in RECORD_FILES)
    with new_folder(destination, overwrite) as place:
        shutil.copytree(model, place, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
        shutil.copyfile(folder / SCORES, place / SCORES)
        made_with["sha256"] = hashlib.sha256((place / WEIGHTS).read_bytes()).hexdigest()
        write_text(place / MADE_WITH, json.dumps(made_with, indent=2))
        card = CARD.format(
            commit=made_with["commit"],
            seed=made_with["seed"],
            minutes=sum(made_with["seconds"].values()) / 60,
            scores=as_markdown(scores),
        )
        (place / "README.md").write_text(card, encoding="utf-8")
        for path in place.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return destination
