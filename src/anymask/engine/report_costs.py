"""What a project took, for the report page: people's time, processor time, and the price of both."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from anymask.engine.costs import KINDS
from anymask.engine.report import Report
from anymask.engine.report_details import Details
from anymask.engine.report_parts import card, hours, section, stage_cell, table
from anymask.engine.tables import STAGES


@dataclass(frozen=True)
class Price:
    """What an hour of a person costs, and one of a processor core. currency: written behind the number."""

    per_hour: float
    currency: str = "€"
    per_core_hour: float = 0.0

    def of(self, seconds: float, cpu_seconds: float = 0.0) -> str:
        """The price of some seconds of people and of cores."""
        cost = self.amount(seconds, cpu_seconds)
        return f"{cost:,.0f} {self.currency}" if cost >= 100 else f"{cost:,.2f} {self.currency}"

    def amount(self, seconds: float, cpu_seconds: float = 0.0) -> float:
        """The same as a number."""
        return (self.per_hour * seconds + self.per_core_hour * cpu_seconds) / 3600


def people_seconds(report: Report, details: Details) -> float:
    """Time of people: what was kept on tasks and reviews, or on the masks themselves, whichever is longer."""
    on_masks = sum(stage.seconds for stage in report.stages) + sum(seconds for _, seconds in report.reviews.values())
    return max(on_masks, sum(person.seconds for person in details.people))


def people_section(report: Report, details: Details, price: Price | None) -> str:
    """Who did how much, in what time, and what all would have taken by hand."""
    if not details.people:
        return ""
    seconds = people_seconds(report, details)
    rows = [
        [
            escape(person.name),
            f"{person.num_photos:,}",
            f"{person.num_reviews:,}",
            hours(person.seconds) if person.seconds else "–",
            f"{person.seconds / person.num_photos:.0f} s" if person.num_photos and person.seconds else "–",
            *([price.of(person.seconds)] if price else []),
        ]
        for person in details.people[:40]
    ]
    more = len(details.people) - len(rows)
    text = "Time as kept on tasks and reviews."
    timed = [stage for stage in report.stages if stage.seconds_per_mask is not None]
    if timed and seconds:
        by_hand = report.num_masks * (timed[0].seconds_per_mask or 0.0)
        money = f", {price.of(by_hand)}" if price else ""
        text += (
            f" All {report.num_masks:,} masks by hand, at the {timed[0].seconds_per_mask:.1f} s of round "
            f"{timed[0].round}, would have taken {hours(by_hand)}{money}; it took {hours(seconds)}"
            f"{f', {price.of(seconds)}' if price else ''}."
        )
    heads = ["who", "tasks finished", "masks reviewed", "time", "a task", *(["cost"] if price else [])]
    foot = f"<p class=note>and {more:,} more</p>" if more > 0 else ""
    return section("People, time and cost", text, card(table(heads, rows) + foot))


def computing_section(report: Report, price: Price | None) -> str:
    """Processor time by round and kind, and what a mask of each stage took."""
    if not report.costs:
        return ""
    rows = [
        [
            stage_cell(cost.stage, f"{cost.round}"),
            KINDS.get(cost.kind, escape(cost.kind)),
            f"{cost.num_photos:,}",
            hours(cost.cpu_seconds),
            f"{cost.cpu_seconds / cost.num_photos:.2f} s" if cost.num_photos else "–",
            hours(cost.seconds),
            *([price.of(0.0, cost.cpu_seconds)] if price and price.per_core_hour else []),
        ]
        for cost in report.costs
    ]
    each = [
        f"{seconds:.2f} s for a mask of stage {stage}"
        for stage in STAGES
        if (seconds := report.cpu_seconds_per_mask(stage)) is not None
    ]
    text = "Processor time of the engine's own commands and workers; the app's server is not in it."
    if each:
        text += f" Making masks took {', '.join(each)}; training and judging come on top."
    heads = ["round and stage", "what", "photos", "processor time", "a photo", "by the clock"]
    heads += ["cost"] if price and price.per_core_hour else []
    return section("Computing", text, card(table(heads, rows)))
