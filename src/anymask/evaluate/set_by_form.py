"""A data set whose files are named nobody knows how, found by what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from anymask.data.readers import DataError, Photo, Problems
from anymask.data.readers.coco import photos_of_coco
from anymask.data.readers.photo import PHOTO_SUFFIXES, complain
from anymask.evaluate.set_layouts import read_json


@dataclass(frozen=True)
class ByForm:
    """A set of which the owners tell what it holds, not how its files are named: JSON files whose path says `split`, in
    COCO's or LabelMe's form, and photos of the names they give, in any folder whose path does not fit `others`.
    """

    split: str
    others: str

    @property
    def files(self) -> tuple[str, ...]:
        return (f"**/*{self.split}*", "**/*.json")

    def read(self, root: Path, source: str, problems: Problems | None) -> Iterator[Photo]:
        """Photos of all JSON files; a photo that is not there is a problem."""
        found = [f for f in sorted(root.rglob("*.json")) if self.split in f.relative_to(root).as_posix().lower()]
        if not found:
            raise DataError("missing file", root, f"no JSON file has '{self.split}' in its path or name.")
        places: dict[str, list[Path]] = {}
        for file in sorted(root.rglob("*")):
            path = file.relative_to(root)
            if file.suffix.lower() in PHOTO_SUFFIXES and not re.search(self.others, path.as_posix().lower()):
                places.setdefault(file.name, []).append(path)
        for truth in found:
            content = read_json(truth)
            keys = set(content) if isinstance(content, dict) else set()
            try:
                if keys >= {"shapes", "imagePath"}:
                    content = labelme_as_coco(content)
                elif not keys >= {"images", "annotations"}:
                    raise ValueError("neither COCO's images and annotations nor LabelMe's shapes")
                for record in content["images"]:
                    name = record["file_name"].replace("\\", "/").rsplit("/", 1)[-1]
                    near = partial(_num_shared, truth.relative_to(root))
                    record["file_name"] = max(places.get(name, [Path(name)]), key=near).as_posix()
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                complain(problems, "broken record", truth, f"in no form that is known: {error!r}.")
                continue
            for p in photos_of_coco(content, truth, root, problems=problems):
                yield Photo(p.name, source, p.encoded, p.hw, p.rles, p.labels)


def labelme_as_coco(content: dict[str, Any]) -> dict[str, Any]:
    """A LabelMe file, one photo, in COCO's form; polygons of one group are one mask, other shapes are broken masks."""
    masks: dict[Any, list[list[float]]] = {}
    for i, shape in enumerate(content["shapes"]):
        group = shape.get("group_id")
        is_polygon = shape.get("shape_type", "polygon") == "polygon"
        points = [float(v) for xy in shape["points"] for v in xy] if is_polygon else []
        masks.setdefault(("one", i) if group is None else ("group", group), []).append(points)
    annotations = [{"id": i, "image_id": 0, "segmentation": mask} for i, mask in enumerate(masks.values())]
    return {"images": [{"id": 0, "file_name": content["imagePath"]}], "annotations": annotations}


def _num_shared(one: Path, other: Path) -> int:
    """Of how many folders both paths begin with the same."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one.parts, other.parts))))
