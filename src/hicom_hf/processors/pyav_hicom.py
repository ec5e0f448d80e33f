"""What the package needs of PyAV, the same for its versions 17.1 to 19: opening, packets, the display matrix, reasons."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from .damage_hicom import has_right_checksums

# Containers and raw streams of video, by FFmpeg's names. FFmpeg's other formats are rarely used for video, and some are unsafe
# on files of strangers: "tty" draws any text as a film, "concat", "hls" and "dash" are lists of other files.
VIDEO_FORMATS = (
    "3g2,3gp,apv,asf,av1,avi,avs2,avs3,cavsvideo,dirac,dnxhd,dv,evc,flv,gxf,h261,h263,h264,hevc,ivf,live_flv,lxf,m4v,matroska,"
    "mjpeg,mov,mp4,mpeg,mpegts,mpegtsraw,mpegvideo,mpjpeg,mxf,nut,nuv,obu,ogg,pva,rm,swf,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
# Read as well, so that the error about a file without a video stream can say so.
AUDIO_FORMATS = "aac,ac3,aiff,amr,flac,mp3,wav"
# Pictures that Pillow does not read; one is a video of one frame.
IMAGE_FORMATS = "apng,exr_pipe,j2k_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,jpeg_pipe,png_pipe,webp_pipe"
# Data comes through a file object, so FFmpeg itself has nothing to open: a playlist cannot make it read other files.
OPEN_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": f"{VIDEO_FORMATS},{AUDIO_FORMATS},{IMAGE_FORMATS}",
}
# Codec of a WebM file -> the decoder that sees its alpha channel.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
CODECS_WITH_REPEATS = ("theora",)
CODECS_WITH_CHECKSUMS = ("ffv1",)  # whose decoder only logs that they are wrong
IO_BUFFER_SIZE = 2**18  # bytes
FIXED_POINT_ONE = 2**16  # the display matrix holds 16.16 fixed-point numbers
# Formats whose pixels FFmpeg converts to rgb24 and to gbrp by the same arithmetic; see `converted`.
PLANAR_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
# What opening, reading and decoding raise on damaged data. All but the first come from the file object, which FFmpeg asks to
# seek to where a damaged header points.
READ_ERRORS = (FFmpegError, OSError, ValueError, OverflowError)
# Of frame side data: the first kind that PyAV 18 cannot name, and how many follow in FFmpeg 8 or may in the next.
FIRST_UNNAMED_SIDE_DATA, NUM_UNNAMED_SIDE_DATA = 28, 12


def open_container(file: BinaryIO, options: dict[str, str]) -> InputContainer:
    """Opens a binary file for reading, with `OPEN_OPTIONS` and further options of FFmpeg.

    Raises:
        av.FFmpegError: FFmpeg cannot read it.
    """
    arguments: dict[str, Any] = {"options": OPEN_OPTIONS | options, "buffer_size": IO_BUFFER_SIZE}
    file.seek(0)
    try:  # damaged text in the metadata is replaced
        return av.open(file, "r", metadata_errors="replace", **arguments)
    except TypeError:  # PyAV 19 always does so and has no such argument
        file.seek(0)
        return av.open(file, "r", **arguments)


def demux(container: InputContainer, *streams: Stream) -> Iterator[av.Packet]:
    """Packets of the streams, all of them if none is named, in the order of the file."""
    try:
        yield from container.demux(*streams)
    except IndexError:  # PyAV's, behind the last packet, if a damaged file seemed to open a new stream on the way
        return


def fraction(number: Any) -> Fraction | None:
    """A number of a stream as Python's fraction, None if the file does not state it. PyAV 19 has a class of its own."""
    return Fraction(number.numerator, number.denominator) if number else None


class StreamDecoder:
    """Decodes the packets of one stream, with what FFmpeg's own decoders leave out.

    Args:
        stream: of an open container.
        options: of FFmpeg's decoder.
        wants_alpha: whether the transparency that WebM keeps beside the picture is decoded as well; FFmpeg's default decoders of
            VP8 and VP9 do not see it.
    """

    def __init__(self, stream: av.VideoStream, options: dict[str, str], wants_alpha: bool = False):
        self.codec: VideoCodecContext = stream.codec_context
        alpha_decoder = ALPHA_DECODERS.get(self.codec.name) if stream.metadata.get("alpha_mode") == "1" else None
        if wants_alpha and alpha_decoder in av.codecs_available:
            self.codec = cast(VideoCodecContext, VideoCodecContext.create(alpha_decoder, "r"))
        # In these codecs an empty packet stands for the picture before, which must have come out by then.
        self.repeats = self.codec.name in CODECS_WITH_REPEATS
        self.checks_sums = self.codec.name in CODECS_WITH_CHECKSUMS and "err_detect" in options
        self.has_sums = False  # whether a packet had checksums; then all of them should
        self.codec.thread_type = "NONE" if self.repeats else "AUTO"
        self.codec.options = options
        self.last: av.VideoFrame | None = None

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """The frames that come out when a packet goes in; a packet of `demux`'s end brings those that are left.

        Raises:
            one of READ_ERRORS: the packet is damaged. The decoder can continue with the next one.
        """
        if self.repeats and packet.size == 0 and packet.pts is not None:
            if self.last is None:
                return []
            self.last.pts = packet.pts
            return [self.last]
        if self.checks_sums and packet.size:
            is_right = has_right_checksums(bytes(packet))
            if is_right is False or (is_right is None and self.has_sums):
                raise ValueError("a checksum is wrong")
            self.has_sums = self.has_sums or is_right is True
        frames = self.codec.decode(packet)
        if frames and self.repeats:
            self.last = frames[-1]
        return frames


def decode_past_errors(
    container: InputContainer, stream: av.VideoStream, decoder: StreamDecoder, errors: list[str]
) -> Iterator[av.VideoFrame]:
    """All frames of a stream in order of presentation; after a damaged packet, those from the next keyframe on.

    Args:
        errors: what goes wrong is appended, as text: an exception would keep this frame, and so the decoder's threads, alive.
    """
    packets, is_broken = demux(container, stream), False
    while True:
        try:
            packet = next(packets, None)
        except READ_ERRORS as error:  # of the container: nothing follows
            errors.append(reason(error))
            return
        if packet is None:
            return
        try:
            frames = decoder.decode(packet)
        except READ_ERRORS as error:
            errors.append(reason(error))
            is_broken = True
            continue
        for frame in frames:
            is_broken = is_broken and not frame.key_frame
            if not is_broken:
                yield frame


def converted(frame: av.VideoFrame, scaler: VideoReformatter, kind: str, width: int, height: int) -> np.ndarray:
    """A frame in another size, as pixels.

    Made only wider or narrower, to an odd width, pixels become planes of colours before they lie side by side. FFmpeg computes
    the same numbers for both, as it interpolates colours fully for odd widths, but has vector code for planes only.

    Args:
        scaler: the same for all frames of a video; it keeps its tables.
        kind: "rgb24" or "rgba".

    Returns:
        uint8 (height, width, 3 or 4).

    Raises:
        one of READ_ERRORS: FFmpeg cannot convert the frame.
    """
    is_stretched = width != frame.width and height == frame.height
    if kind == "rgb24" and is_stretched and width % 2 and frame.format.name in PLANAR_FORMATS:
        kind = "gbrp"
    # One thread: a forked process that collects the scaler would wait for its threads.
    return scaler.reformat(frame, width, height, kind, threads=1).to_ndarray()


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The 3 x 3 matrix that says how the stored picture is turned, int32 fixed-point, None if the frame has none."""
    for side_data in _side_data(frame):
        if side_data.type == SideDataType.DISPLAYMATRIX:
            return np.frombuffer(bytes(side_data), dtype=np.int32).reshape(3, 3)
    return None


def _side_data(frame: av.VideoFrame) -> list[Any]:
    """What comes beside the pixels. PyAV 18 fails on a frame if it cannot name one of the kinds; those are taken off first."""
    try:
        return _values(frame)
    except ValueError:
        graph = Graph()
        size: dict[str, Any] = {"width": frame.width, "height": frame.height}
        nodes = [graph.add_buffer(format=frame.format, time_base=frame.time_base, **size)]
        kinds = range(FIRST_UNNAMED_SIDE_DATA, FIRST_UNNAMED_SIDE_DATA + NUM_UNNAMED_SIDE_DATA)
        nodes += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in kinds]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        graph.push(frame)
        return _values(cast(av.VideoFrame, graph.pull()))


def _values(frame: av.VideoFrame) -> list[Any]:
    # Of this container, PyAV 18 iterates over the values and PyAV 19 over the keys.
    container: Any = frame.side_data
    return [container[number] for number in range(len(container))]


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns counter-clockwise, mirror left-right before) that make the stored picture upright."""
    matrix = display_matrix(frame)
    if matrix is None:
        return 0, False
    (a, b), (c, d) = matrix[:2, :2].tolist()
    mirrored = a * d - b * c < 0
    if mirrored:  # x' = a x + c y, y' = b x + d y: mirroring first changes the sign of what x is multiplied with
        a, b = -a, -b
    # The picture's x axis goes to (a, b), with y downwards.
    return round(np.degrees(np.arctan2(-b, a)) / 90) % 4, mirrored


def reason(error: Exception) -> str:
    """What FFmpeg says is wrong, without the number and the name of the error."""
    return getattr(error, "strerror", None) or str(error)
