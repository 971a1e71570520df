"""Where do photos come from? Photos and masks by region and by income, beside the published table (PAPER §6).

docs/guide/fairness.md says what this cannot show.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError
from anymask.data.readers import Problems
from anymask.evaluate.contract import Case, Table, Task
from anymask.evaluate.datasets import open_named

PUBLISHED = {  # share of the photos of SA-1B, COCO, Open Images in %
    "region": {
        "Africa": (2.8, 3.0, 1.7),
        "Asia & Oceania": (36.2, 11.4, 14.3),
        "Europe": (49.8, 34.2, 36.2),
        "Latin America & Caribbean": (3.5, 3.1, 5.0),
        "North America": (7.7, 48.3, 42.8),
    },
    "income": {
        "high": (54.0, 89.1, 87.5),
        "middle": (45.0, 10.5, 12.0),
        "low": (0.9, 0.4, 0.5),
    },
}


@dataclass(frozen=True)
class GeographyProtocol:
    """Choices. How countries were found is not one: the paper read them from captions, those of COCO and Open Images
    from the photo site; here they come with the CSV. merge_middle: lower and upper middle income are one (app. C).
    """

    merge_middle: bool = True


@dataclass
class Geography(Task):
    """places: a CSV with columns `photo`, and any of `country`, `region`, `income`; an empty cell is "not known"."""

    data: list[Path]
    places: Path
    protocol: GeographyProtocol = field(default_factory=GeographyProtocol)
    method: str = "count"
    name: str = "geography"

    def cases(self) -> list[Case]:
        """A case for each photo; photos and rows without a partner are named."""
        rows = read_places(self.places)
        problems = Problems()
        self.problems.clear()
        found = []
        for path in self.data:
            for photo in open_named(path, problems):
                row = rows.pop(photo.name, None)
                if row is None:
                    self.problems.append(f"{photo.name}: not in {self.places.name}")
                found.append(Case(f"{photo.source}/{photo.name}", photo.source, (row or {}, len(photo.rles))))
        self.problems.extend(f"{p.file}: {p.kind}: {p.message}" for p in problems.found)
        self.problems.extend(f"{self.places.name}: there is no photo {name!r}" for name in rows)
        return found

    def score(self, case: Case) -> dict[str, Any]:
        """Where the photo is from, and its number of masks."""
        row, num_masks = case.payload
        income = row.get("income", "").lower().removesuffix(" income")
        if self.protocol.merge_middle and income in ("lower middle", "upper middle"):
            income = "middle"
        return {
            "masks": num_masks,
            "country": row.get("country", ""),
            "region": row.get("region", ""),
            "income": income,
        }

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """By region and by income: countries, photos, masks, share of the photos that are known, in percent."""
        summary: dict[str, Any] = {"photos": len(rows), "masks": sum(row["masks"] for row in rows)}
        for split in PUBLISHED:
            known = [row for row in rows if row[split]]
            groups: dict[str, Any] = {}
            for name in sorted({row[split] for row in known}):
                own = [row for row in known if row[split] == name]
                countries = {row["country"] for row in own if row["country"]}
                groups[name] = {
                    "countries": len(countries) or None,
                    "photos": len(own),
                    "masks": sum(row["masks"] for row in own),
                    "share": 100 * len(own) / len(known),
                }
            summary[split] = {"groups": groups, "unknown": len(rows) - len(known)}
        return summary

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """One for regions, one for income; published groups that are not here are rows, too."""
        columns = ("countries", "photos", "masks", "masks per photo", "%", "SA-1B %", "COCO %", "Open Images %")
        tables = []
        for split, published in PUBLISHED.items():
            groups = summary[split]["groups"]
            rows: list[tuple[Any, ...]] = []
            for name in [*published, *(n for n in groups if n not in published)]:
                own, paper = groups.get(name), published.get(name, (None,) * 3)
                cells = (None, 0, 0, None, 0.0)
                if own:
                    cells = (own["countries"], own["photos"], own["masks"], own["masks"] / own["photos"], own["share"])
                rows.append((name, *cells, *paper))
            note = f"Not known: {summary[split]['unknown']} photos. Published: shares of photos (Table 1 of the paper)."
            tables.append(Table(f"Photos by {split}", (split, *columns), rows, note))
        return tables

    def describe(self) -> dict[str, Any]:
        """Paths."""
        return {"data": [str(path) for path in self.data], "places": str(self.places)}


def read_places(path: Path) -> dict[str, dict[str, str]]:
    """Cells of the CSV by photo. Raises InputError for a CSV without the columns, or with a photo twice."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}.") from error
    if "photo" not in names or not {"region", "income"} & set(names):
        raise InputError(f"{path} needs columns photo and region or income, got {', '.join(names) or 'none'}.")
    by_photo = {row["photo"]: row for row in rows}
    if len(by_photo) < len(rows):
        raise InputError(f"{path} lists a photo twice.")
    return by_photo
