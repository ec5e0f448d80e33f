"""From a scene to frames, and to where its objects are in them.

Frame i of T shows the scene at time (i + 1/2) / T of the video. Everything is counted in whole numbers, so that the same
scene gives the same bytes on every machine. Letters: T frames, H/W patch rows and columns.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .dice import Dice
from .objects import OBJECT_SIZE, SceneObject
from .scenes import SPLITS, Scene
from .sprites import FULL_COVER, SUBSAMPLES, sprite_cover
from .words import COLOURS

DEFAULT_NUM_FRAMES = 16
DEFAULT_SIZE = 144  # pixels
DEFAULT_FPS = 4.0
MIN_SIDE = 48  # pixels; below, textures are finer than pixels
NOISE_STREAM = 3  # the dice of a scene are keyed by seed, split and stream
NOISE_SHARE = 3  # noise is the sum of two numbers from -7.5 to 7.5, divided by this: standard deviation 2.2 of 255
SHEET_MARGIN = 2  # pixels between the pictures of a contact sheet


def render(
    scene: Scene,
    num_frames: int = DEFAULT_NUM_FRAMES,
    size: int | tuple[int, int] = DEFAULT_SIZE,
    fps: float = DEFAULT_FPS,
    noise: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        scene: what happens.
        num_frames: T; the same events are spread over them.
        size: (height, width) in pixels, or the side of a square.
        fps: frames per second; changes the times only.
        noise: add the camera's noise, another one in every frame.

    Returns:
        Frames, uint8 (T, height, width, 3), and the time of each in seconds, float64 (T,).

    Raises:
        ValueError: no frames, a side below 48 pixels, or a frame rate that is not above 0.

    Example:
        >>> frames, times = render(Scene.from_seed(1), num_frames=4, size=(96, 128), fps=2.0)
        >>> frames.shape, times.tolist()
        ((4, 96, 128, 3), [0.0, 0.5, 1.0, 1.5])
    """
    height, width = height_and_width(size)
    if not fps > 0:
        raise ValueError(f"fps must be above 0 frames per second, got {fps!r}")
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    background = _background(scene, height, width)
    for index, time in enumerate(scene_times(num_frames)):
        canvas = background.copy()
        for found in scene.objects:
            if found.is_seen(time):
                _paint(canvas, found, time)
        if noise:
            canvas += _noise(scene, index, canvas.shape)
        frames[index] = np.clip(canvas, 0, 255)
    return frames, np.arange(num_frames) / fps


def render_still(scene: Scene, size: int | tuple[int, int] = DEFAULT_SIZE, noise: bool = True) -> np.ndarray:
    """The picture in the middle of a scene, uint8 (height, width, 3)."""
    return render(scene, 1, size, noise=noise)[0][0]


def scene_times(num_frames: int) -> list[float]:
    """The moments that T frames show, fractions of the video."""
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    return [(index + 0.5) / num_frames for index in range(num_frames)]


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size in pixels, checked; a number is the side of a square."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"size must be at least {MIN_SIDE} pixels on each side, got {height} x {width}")
    return height, width


def referent_boxes(
    referents: Sequence[SceneObject], num_frames: int, size: int | tuple[int, int] = DEFAULT_SIZE
) -> np.ndarray:
    """Where objects are in each frame.

    Args:
        referents: R objects, of a question for example.
        num_frames: T.
        size: (height, width) in pixels, or the side of a square.

    Returns:
        float64 (R, T, 4): left, top, right, bottom in pixels; NaN where the object is not seen.
    """
    height, width = height_and_width(size)
    boxes = np.full((len(referents), num_frames, 4), np.nan)
    for row, found in enumerate(referents):
        radius = found.diameter * min(height, width) / 2
        for index, time in enumerate(scene_times(num_frames)):
            if found.is_seen(time):
                x, y = found.position(time)
                x, y = x * width, y * height
                boxes[row, index] = x - radius, y - radius, x + radius, y + radius
    return boxes


def padded_boxes(
    referents: Sequence[SceneObject], num_frames: int, size: int | tuple[int, int] = DEFAULT_SIZE
) -> np.ndarray:
    """`referent_boxes` once the frames are padded to a square, as fractions of its side: (R, T, 4)."""
    height, width = height_and_width(size)
    side = max(height, width)
    # As `pad_to_square` does: half a pixel up or left where the margin is odd.
    margins = np.array([(side - width) // 2, (side - height) // 2] * 2)
    return (referent_boxes(referents, num_frames, size) + margins) / side


def patch_cover(
    referents: Sequence[SceneObject],
    num_frames: int,
    size: int | tuple[int, int] = DEFAULT_SIZE,
    grid: tuple[int, int] = (12, 12),
) -> np.ndarray:
    """How much of each patch the objects' boxes cover, once the frame is padded to a square.

    Args:
        referents: R objects.
        num_frames: T.
        size: (height, width) of the frames before padding, or the side of a square.
        grid: patch rows and columns (H, W) of the padded square.

    Returns:
        float64 (R, T, H, W), 0 to 1.
    """
    return box_cover(padded_boxes(referents, num_frames, size), grid)


def box_cover(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """How much of each patch boxes cover.

    Args:
        boxes: (..., 4): left, top, right, bottom as fractions of the side of a square; NaN for a box that covers nothing.
        grid: patch rows and columns (H, W) of the square.

    Returns:
        float64 (..., H, W), 0 to 1.
    """
    boxes = np.nan_to_num(boxes, nan=-1.0)
    parts = []
    for count, first in zip(grid, (1, 0), strict=True):
        edges = np.arange(count + 1) / count
        low, high = boxes[..., first, None], boxes[..., first + 2, None]
        shared = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
        parts.append(np.clip(shared, 0.0, None) * count)
    rows, columns = parts
    return rows[..., :, None] * columns[..., None, :]


def contact_sheet(rows: Sequence[np.ndarray]) -> Image.Image:
    """Videos as rows of their frames, (T, height, width, 3) uint8 each."""
    padding = ((0, 0), (SHEET_MARGIN, 0), (SHEET_MARGIN, 0), (0, 0))
    strips = [np.concatenate(list(np.pad(frames, padding, constant_values=255)), axis=1) for frames in rows]
    return Image.fromarray(np.concatenate(strips))


def _background(scene: Scene, height: int, width: int) -> np.ndarray:
    middle, rightward, downward = scene.background
    across = rightward * (2 * np.arange(width) + 1 - width) // width
    down = downward * (2 * np.arange(height) + 1 - height) // height
    return (np.array(middle) + (down[:, None] + across[None, :])[:, :, None]).astype(np.int32)


def _paint(canvas: np.ndarray, found: SceneObject, time: float) -> None:
    height, width = canvas.shape[:2]
    x, y = found.position(time)
    radius = _quarters(found.scale * OBJECT_SIZE * min(height, width) / 2)
    right, down = _quarters(x * width), _quarters(y * height)
    cover = sprite_cover(found.shape, found.texture, radius, right % SUBSAMPLES, down % SUBSAMPLES)
    side = len(cover)
    top, left = down // SUBSAMPLES - side // 2, right // SUBSAMPLES - side // 2
    inside = (slice(max(top, 0), top + side), slice(max(left, 0), left + side))
    target = canvas[inside]
    cover = cover[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1], None]
    colour = np.array(COLOURS[found.colour], dtype=np.int32)
    target[:] = (target * (FULL_COVER - cover) + colour * cover + FULL_COVER // 2) // FULL_COVER


def _quarters(pixels: float) -> int:
    return int(np.floor(pixels * SUBSAMPLES + 0.5))


def _noise(scene: Scene, frame: int, shape: tuple[int, ...]) -> np.ndarray:
    dice = Dice(scene.seed, SPLITS.index(scene.split), NOISE_STREAM, frame)
    values = dice.bytes(int(np.prod(shape))).reshape(shape)
    return ((values & 15).astype(np.int32) + (values >> 4) - 15) // NOISE_SHARE
