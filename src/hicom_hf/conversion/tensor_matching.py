"""Which official tensor becomes which of ours; everything that does not fit is reported at once."""

from .names import RULES, experiment_of, our_name

MAX_LISTED = 20  # tensors named per kind of problem

Shapes = dict[str, tuple[int, ...]]


def match_tensors(found: Shapes, wanted: Shapes, rules: tuple = RULES, built: str = "") -> dict[str, str]:
    """Assign an official tensor to each of ours.

    Args:
        found: official names and shapes.
        wanted: our names and shapes, all of which are needed.
        rules: a table of `names`.
        built: what the config says is built, for the error.

    Returns:
        Our name -> official name, in the order of `wanted`.

    Raises:
        ValueError: with all experimental, unknown, unused, missing and misshapen tensors.
    """
    sources: dict[str, str] = {}
    problems: dict[str, list[str]] = {
        kind: [] for kind in ("of unreleased experiments", "unknown", "unused", "missing", "misshapen", "found twice")
    }
    for official, shape in found.items():
        experiment = experiment_of(official)
        if experiment is not None:
            problems["of unreleased experiments"].append(f"{official} ({experiment})")
            continue
        try:
            ours = our_name(official, rules)
        except KeyError:
            problems["unknown"].append(official)
            continue
        if ours is None:
            continue
        if ours not in wanted:
            problems["unused"].append(official)
        elif ours in sources:
            problems["found twice"].append(f"{official} and {sources[ours]}")
        else:
            sources[ours] = official
            if tuple(shape) != tuple(wanted[ours]):
                problems["misshapen"].append(f"{official} {tuple(shape)}, expected {tuple(wanted[ours])}")
    problems["missing"] = [ours for ours in wanted if ours not in sources]
    if any(problems.values()):
        raise ValueError(_report(problems, built))
    return {ours: sources[ours] for ours in wanted}


def _report(problems: dict[str, list[str]], built: str) -> str:
    lines = ["the tensors do not fit the official config; nothing was written."]
    if built:
        lines.append(f"The config builds: {built}.")
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            lines.append(f"{len(names)} {kind}: {', '.join(names[:MAX_LISTED])}{more}.")
    return "\n".join(lines)
