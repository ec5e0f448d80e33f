"""Candidates of long videos kept in a folder, so that an archive is encoded once and asked about for months."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..hub.files import atomic_folder
from ..processors.candidate_frames_hicom import CandidateFiles, CandidateFrames, FeatureFile
from ..processors.picture_settings_hicom import PictureSettings
from ..processors.video_reading_hicom import SamplingRecord

FORMAT = 1  # version of the folders; raised when their content changes
ABOUT = "about.json"


def encode_into(
    folder: Path, encode: Callable[[CandidateFiles], CandidateFrames], dtype: torch.dtype | None = None
) -> CandidateFrames:
    """Encode candidates into a new folder, which is there completely or not at all.

    Args:
        folder: must not be there, or be empty.
        encode: writes into the files that it is given; see `encode_candidates`.
        dtype: of the features of frames; None for the model's.

    Raises:
        FileExistsError: the folder was made by another process meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as written:
        types = (dtype, dtype, torch.int8, torch.float32)
        names = CandidateFiles._fields
        files = CandidateFiles(
            *(FeatureFile(one, path=written / name) for one, name in zip(types, names, strict=True))
        )
        candidates = encode(files)
        for file in files:
            file.close()
        described = {
            "format": FORMAT,
            "files": {name: file.described() for name, file in zip(files._fields, files, strict=True)},
            "changes": candidates.changes,
            "sampling": None if candidates.sampling is None else candidates.sampling.to_dict(),
        }
        (written / ABOUT).write_text(json.dumps(described), encoding="utf-8")
    found = read_from(folder)
    assert found is not None  # just written
    found.seconds = candidates.seconds
    return found


def read_from(folder: Path) -> CandidateFrames | None:
    """The candidates of a folder; None if there is no such folder.

    Raises:
        ValueError: the folder is damaged, or of another version.
    """
    if not folder.exists():
        return None
    try:
        described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ValueError(f"of format {described['format']!r}, not {FORMAT}")
        files = CandidateFiles(
            *(
                FeatureFile(
                    getattr(torch, file["dtype"]),
                    path=folder / name,
                    shape=file["shape"],
                    num_rows=file["num_rows"],
                    first=file["first"],
                )
                for name, file in described["files"].items()
            )
        )
        return CandidateFrames(files, described["changes"], sampling_from_dict(described["sampling"]), 0.0)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(f"{folder}: these features are damaged ({error}); delete the folder") from error


def sampling_from_dict(record: dict[str, Any] | None) -> SamplingRecord | None:
    """What `SamplingRecord.to_dict` gave, as it was."""
    if record is None:
        return None
    settings = record["settings"]
    plain = SamplingRecord(**{**record, "settings": None})
    return plain if settings is None else replace(plain, settings=PictureSettings(**settings))
