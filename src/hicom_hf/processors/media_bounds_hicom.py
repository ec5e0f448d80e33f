"""How much one video or animation may cost, judged before memory is taken."""

from dataclasses import dataclass, fields

from .source_names_hicom import VideoReadError


@dataclass(frozen=True)
class MediaBounds:
    """Upper bounds for one source. A file that asks for more is refused.

    Attributes:
        max_pixels: width x height of a picture; the default takes a photo of 108 megapixels.
        max_seconds: length of a video or an animation; the default is 12 days.
        max_packets: of a video stream; the default is 19 hours at 30 frames per second.
        max_pictures: of an animation.
        max_animation_pixels: width x height x pictures of an animation.
        max_result_bytes: of all frames that are returned, repeated ones included.

    Raises:
        ValueError: a bound is not a whole number above 0.

    Example:
        >>> MediaBounds(max_pixels=4096 * 2160).max_pixels
        8847360
    """

    max_pixels: int = 2**27
    max_seconds: int = 2**20
    max_packets: int = 2**21
    max_pictures: int = 2**16
    max_animation_pixels: int = 2**32
    max_result_bytes: int = 2**33

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be a whole number above 0, got {value!r}")

    def check(self, bound: str, value: int, name: str, what: str) -> None:
        """Refuses a source whose `what` is above the bound of that name."""
        limit = getattr(self, bound)
        if value > limit:
            raise VideoReadError(f"{name}: {what} is {value}, more than MediaBounds.{bound}={limit}; make it smaller")


DEFAULT_BOUNDS = MediaBounds()
