"""What a question chose of a video, in a line for a person."""

TIMELINE = 60  # characters


def describe_selection(selection) -> str:
    """Which frames a question chose: the shots with their times, or why they are spread evenly."""
    chosen = f"{len(selection.frames)} of {selection.num_candidates} frames"
    if selection.used != "uniform" and selection.times:
        chosen += f", at seconds {', '.join(f'{round(time, 2):g}' for time in selection.times)}"
    return f"{chosen}: {selection.reason}"


def describe_tiles(record) -> str:
    """Where the patch lies that fits the question best."""
    best, count = record.tiles[0], len(record.tiles)
    squares = f"{count} square{'s' if count > 1 else ''}"
    zoom = "the whole frame, padded" if record.zoom == 0 else f"zoom {record.zoom}, {squares}"
    top, left, bottom, right = (round(100 * part) for part in best.box)
    return f"{zoom}; best in rows {top} to {bottom} %, columns {left} to {right} % of frame {best.frame + 1}"


def timeline(selection, duration: float | None) -> str:
    """A line as long as the video, with a mark where frames were chosen; empty without a clock.

    Args:
        selection: which frames were chosen.
        duration: of the video, in seconds.
    """
    if not selection.times or not duration:
        return ""
    marks = {min(int(TIMELINE * time / duration), TIMELINE - 1) for time in selection.times}
    return "".join("#" if place in marks else "-" for place in range(TIMELINE))
