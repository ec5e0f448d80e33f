"""A picture per table. Needs matplotlib, the extra `plots`."""

from math import nan
from pathlib import Path

from .paper_tables import Row, Table
from .results import Results
from .targets import of_ratio
from .variants import NUM_PATCHES, RATIOS, VARIANTS

COLOURS = {"conditional": "#0b6e99", "unconditional": "#d9822b", "pooling": "#8a8a8a"}
KINDS = {
    "conditional-local": ("conditional local", "conditional"),
    "unconditional-local": ("unconditional local", "unconditional"),
    "average-pool": ("average pool", "pooling"),
}
WIDTH, DPI = 7.5, 110  # inches; dots per inch


def has_numbers(table: Table, results: Results) -> bool:
    return any(results.value(row) is not None for row in table.rows)


def draw_table(table: Table, results: Results, path: Path) -> None:
    """Draw a table; rows that were not run are left out.

    Args:
        table: with numbers, see `has_numbers`.
        results: its numbers.
        path: of the PNG.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure_class, canvas = _matplotlib()
    path.parent.mkdir(parents=True, exist_ok=True)
    if table.name in ("figure5", "frames"):
        figure = figure_class(figsize=(WIDTH, 4.2), layout="constrained")
        _draw_lines(figure.add_subplot(), table, results)
    else:
        rows = [row for row in table.rows if results.value(row) is not None]
        figure = figure_class(figsize=(WIDTH, 1.3 + 0.42 * len(rows)), layout="constrained")
        _draw_bars(figure.add_subplot(), rows, results)
    figure.suptitle(table.title, fontsize=11)
    canvas(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def check_matplotlib() -> None:
    """Raise the ImportError now rather than at the end."""
    _matplotlib()


def _matplotlib():
    """Without pyplot: nothing global, and no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the pictures need matplotlib: pip install 'hicom_hf[plots]'") from error
    return Figure, FigureCanvasAgg


def _family(row: Row) -> str:
    return VARIANTS[row.variant].family


def _draw_bars(axes, rows: list[Row], results: Results) -> None:
    for place, row in enumerate(rows):
        value = results.value(row)
        axes.barh(
            place, value.mean, xerr=value.spread, color=COLOURS[_family(row)], height=0.7, error_kw={"capsize": 3}
        )
        axes.plot(value.scores, [place] * len(value.scores), "o", color="black", markersize=3)
        text = f"{value.mean:.1f}"
        axes.text(max(*value.scores, value.mean + (value.spread or 0)) + 1.5, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.label}, {row.num_tokens} tokens" for row in rows], fontsize=8)
    axes.invert_yaxis()
    for place, row in enumerate(rows):
        chance = results.value(row, of="chance").mean
        axes.vlines(chance, place - 0.5, place + 0.5, color="black", linestyle=":", linewidth=1)
    axes.set_xlim(0, 108)
    axes.set_xlabel("right answers (%); dots: seeds; dotted line: chance", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lines(axes, table: Table, results: Results) -> None:
    """Scores over compression (figure 5) or over sampled frames."""
    for label, family, points in _lines(table):
        known = [(x, results.value(row)) for x, row in points]
        known = [(x, value) for x, value in known if value is not None]
        if known:
            xs, values = zip(*known, strict=True)
            spreads = [nan if value.spread is None else value.spread for value in values]
            means = [value.mean for value in values]
            axes.errorbar(xs, means, spreads, marker="o", capsize=3, color=COLOURS[family], label=label)
    chances = [chance.mean for row in table.rows if (chance := results.value(row, of="chance")) is not None]
    axes.axhline(chances[0], color="black", linestyle=":", linewidth=1, label="chance")
    axes.set_xscale("log", base=2)
    ticks = sorted({x for _, _, points in _lines(table) for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    figure5 = table.name == "figure5"
    axes.set_xlabel("patches per visual token" if figure5 else "sampled frames; 8 in training", fontsize=9)
    axes.set_ylabel("right answers (%)", fontsize=9)
    axes.set_ylim(0, 105)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(table: Table) -> list[tuple[str, str, list[tuple[float, Row]]]]:
    """Label, family and points of each line."""
    if table.name == "figure5":
        rows = {row.variant: row for row in table.rows}
        return [
            (label, family, [(NUM_PATCHES / (row := rows[of_ratio(kind, ratio)]).num_tokens, row) for ratio in RATIOS])
            for kind, (label, family) in KINDS.items()
        ]
    lines: dict[str, list] = {}
    for row in table.rows:
        lines.setdefault(row.label.rpartition(", ")[0], []).append((int(row.measure.split()[0]), row))
    return [(label, _family(points[0][1]), points) for label, points in lines.items()]
