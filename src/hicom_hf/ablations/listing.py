"""What a campaign consists of and how far it is, for a terminal."""

from collections.abc import Iterable

from .arms import ARMS
from .campaign import Campaign
from .paper_tables import TABLES
from .planning import chosen_arms, expected_hours, plan


def listing(campaign: Campaign, workers: int, tables: Iterable[str] = (), arms: Iterable[str] = ()) -> str:
    """Arms with their tables, tokens and seeds done, the tables, and the time that the rest takes.

    Args:
        campaign: see there.
        workers: processes at a time.
        tables, arms: only these, see `plan`.
    """
    names = chosen_arms(tables, arms)
    lines = [f"{'arm':<32}{'tokens':>6}  {'seeds done':<12}tables"]
    for name in names:
        arm = ARMS[name]
        done = [str(seed) for seed in campaign.seeds if campaign.result(campaign.final_run(arm, seed)) is not None]
        within = [table.name for table in TABLES.values() if any(row.arm == name for row in table.rows)]
        lines.append(f"{name:<32}{arm.num_tokens:>6}  {' '.join(done) or '-':<12}{' '.join(within)}")
    lines += ["", *(f"{table.name:<12} {table.title}" for table in TABLES.values())]
    jobs = plan(campaign, tables, arms)
    left = [job for job in jobs if not job.is_done]
    hours = expected_hours(campaign, left, workers)
    lines += ["", f"{len(jobs) - len(left)} of {len(jobs)} jobs done; the others take about {hours:.1f} hours"]
    return "\n".join(lines)
