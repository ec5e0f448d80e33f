"""Where the data that the repository does not contain may be found: reference numbers and real videos."""

import os
from pathlib import Path

import pytest

SHARED_DIR = Path(__file__).resolve().parents[2] / "shared"
GOLDEN_DIR = Path(os.environ.get("HICOM_GOLDEN_DIR", SHARED_DIR / "golden"))
VIDEOS_DIR = Path(os.environ.get("HICOM_VIDEOS_DIR", SHARED_DIR / "videos"))

needs_golden = pytest.mark.skipif(
    not GOLDEN_DIR.is_dir(), reason="the reference numbers are not here; HICOM_GOLDEN_DIR names their folder"
)
needs_videos = pytest.mark.skipif(
    not VIDEOS_DIR.is_dir(), reason="the real videos are not here; HICOM_VIDEOS_DIR names their folder"
)
