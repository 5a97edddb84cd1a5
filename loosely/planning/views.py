"""Runs and bills as people read them."""

from collections.abc import Iterator, Mapping

from rich.table import Table
from rich.text import Text

from loosely.planning.bill import Bill
from loosely.planning.chart import chart
from loosely.planning.cost import DAYS, Estimate
from loosely.planning.load import Load
from loosely.planning.outcome import Outcome, percentiles
from loosely.planning.prices import Prices


def outcome_lines(outcome: Outcome) -> list[str]:
    """The chart of a run, and its figures."""
    answered = "all answered" if not outcome.unanswered else f"{outcome.unanswered:,} unanswered"
    share = outcome.busy_hours / outcome.node_hours if outcome.node_hours else 0.0
    paid, worked = f"{outcome.node_hours:.1f} h paid for", f"{outcome.busy_hours:.1f} h of work"
    return [
        *chart(outcome.samples),
        "",
        f"jobs      {outcome.jobs:,}, {answered}",
        f"wait      {_times(percentiles(outcome.waits_seconds))}",
        f"answer    {_times(percentiles(outcome.answers_seconds))}",
        f"workers   {outcome.most_ready} at most",
        f"nodes     {outcome.most_nodes} at most, {paid}, {worked} ({share:.0%})",
    ]


def _times(found: Mapping[str, float]) -> str:
    if not found:
        return "nobody came to it"
    return "   ".join(f"{name} {seconds:,.1f} s" for name, seconds in found.items())


def bill_table(found: Estimate, load: Load) -> Table:
    """The bills side by side."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("a month", no_wrap=True)
    for bill in found.bills:
        table.add_column(bill.name, justify="right", no_wrap=True)
    table.add_row("GPU hours", *(f"{bill.gpu_hours:,.0f}" for bill in found.bills))
    for item in found.bills[0].by_item():
        table.add_row(item, *(_sum(bill, item) for bill in found.bills))
    table.add_row("total", *(f"{bill.total:,.2f}" for bill in found.bills), style="bold")
    thousands = load.jobs_per_day * DAYS / 1000
    table.add_row("for 1,000 jobs", *(f"{bill.total / thousands:,.3f}" for bill in found.bills))
    waits = [_p95(found.on_nodes)] * 2
    if found.on_replicas is not None:
        waits.append(_p95(found.on_replicas))
    table.add_row("answer, p95", *waits, Text("-"))
    return table


def _sum(bill: Bill, item: str) -> str:
    sums = bill.by_item()
    if item not in sums:
        return "-"
    amount = sums[item]
    is_assumed = any(
        line.price.is_assumed and line.amount for line in bill.lines if line.item == item
    )
    return "?" if amount is None else f"{'~' if is_assumed else ''}{amount:,.2f}"


def _p95(outcome: Outcome) -> str:
    found = percentiles(outcome.answers_seconds)
    return f"{found['p95']:,.1f} s" if found else "-"


def cost_notes(found: Estimate, prices: Prices) -> Iterator[str]:
    """What to know before one believes the table."""
    yield ""
    yield (
        f"A model with list prices, {prices.currency}, {prices.region}, dated {prices.dated}; "
        "docs/cost.md tells its formulas."
    )
    yield "~  with prices that are assumed, since nobody was found who quotes them"
    unknown = sorted({what for bill in found.bills for what in bill.unknown})
    if unknown:
        yield f"?  left out, since no price is known: {', '.join(unknown)}"
    yield "Always on: the GPUs alone, enough of them for the busiest hour."
