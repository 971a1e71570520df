"""Vector art as pieces: what an SVG paints separately are the parts, seen exactly, nested as they are painted.

A drawing is rendered twice: in its colours, and with every shape in a flat colour of its own without
smoothing, which tells for each pixel which shape is seen there. A shape that is painted onto another lies in
that one's part (the pupil in the eye in the face), and so do the shapes of a `<g>` together.
"""

from __future__ import annotations

import copy
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import cv2
import numpy as np

from anymask.core.errors import InputError, MissingExtraError
from anymask.data.synthetic.pieces import Piece, crop, nested_sets

SHAPES = frozenset(["path", "rect", "circle", "ellipse", "polygon", "polyline", "line"])
NOT_PAINTED = frozenset(
    ["defs", "clipPath", "mask", "linearGradient", "radialGradient", "pattern", "filter", "symbol", "marker"]
    + ["title", "desc", "metadata"]
)
UNUSABLE = frozenset(["style", "image", "text", "foreignObject", "script", "switch"])  # the drawing is left out
MAX_LEAVES = 64
CELL_PX = 28  # of a shape alone, where it is measured
ON = 0.9  # share of a shape that must lie on an earlier one to be painted onto it
TRANSLUCENT = 140  # mean alpha below which a shape is a shine or a shadow, not a thing
MIN_PART_PX = 30
_CACHED = 256  # pieces, up to 330 kB each


class VectorArt:
    """Drawings by number; `piece` renders one. The same numbers for the same files."""

    def __init__(self, drawings: Sequence[tuple[str, str]]) -> None:
        """drawings: name and SVG text of each."""
        if not drawings:
            raise InputError("no drawings; expected .svg files, or an icons.json of an @iconify-json package.")
        require_resvg()
        self._drawings = list(drawings)
        self._taken_apart = lru_cache(maxsize=_CACHED)(self._take_apart)
        self._rendered = lru_cache(maxsize=_CACHED)(self._render)

    def __len__(self) -> int:
        return len(self._drawings)

    def piece(self, index: int, side_px: int = 256) -> Piece | None:
        """Drawing `index` with its longer side rendered at `side_px`; None if it cannot be used."""
        return self._rendered(index, side_px)

    def _take_apart(self, index: int) -> Drawing | None:
        try:
            return take_apart(*self._drawings[index])
        except InputError:
            return None

    def _render(self, index: int, side_px: int) -> Piece | None:
        drawing = self._taken_apart(index)
        return render_piece(drawing, side_px) if drawing is not None else None

    def __getstate__(self) -> dict[str, Any]:
        return {"_drawings": self._drawings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_drawings"])  # type: ignore[misc]


def load_art(paths: Sequence[Path] = ()) -> VectorArt:
    """Drawings of `.svg` files, folders of them, and `icons.json` of npm's @iconify-json packages (or their folders).

    Without paths: the drawings that ship with anymask.
    """
    chosen = [Path(p) for p in paths] or [Path(__file__).parent / "shapes"]
    return VectorArt([drawing for path in chosen for drawing in _drawings(path)])


def require_resvg() -> Any:
    """`resvg_py.svg_to_bytes`, or MissingExtraError."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise MissingExtraError("vector art is rendered with resvg: pip install 'anymask[synthetic]'") from error
    return svg_to_bytes


def _drawings(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        icons = sorted(path.rglob("icons.json"))
        files = icons or sorted(path.rglob("*.svg"))
        if not files:
            raise InputError(f"{path} has neither *.svg nor icons.json of an @iconify-json package.")
        for file in files:
            yield from _drawings(file)
    elif path.suffix == ".svg" and path.is_file():
        yield _readable(path.stem), path.read_text(encoding="utf-8")
    elif path.suffix == ".json" and path.is_file():
        yield from _iconify(path)
    else:
        raise InputError(f"{path}: expected a folder, an .svg, or the icons.json of an @iconify-json package.")


def _iconify(path: Path) -> Iterator[tuple[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        default = {k: content.get(k, v) for k, v in {"left": 0, "top": 0, "width": 16, "height": 16}.items()}
        for name, icon in content["icons"].items():
            box = {**default, **{k: icon[k] for k in default if k in icon}}
            view = " ".join(str(box[k]) for k in ("left", "top", "width", "height"))
            yield _readable(name), f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}" viewBox="{view}">{icon["body"]}</svg>'
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not an iconify collection ({error!r}); expected 'icons' with 'body'.") from error


_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def _readable(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


@dataclass(frozen=True)
class Drawing:
    """An SVG taken apart: the tree, the tree in flat colours, and the sets of shapes that may be a part."""

    name: str
    root: Element
    flat: Element
    num_leaves: int
    hw: tuple[float, float]
    candidates: list[frozenset[int]]


def take_apart(name: str, svg: str) -> Drawing | None:
    """The structure of an SVG text; None for drawings of nothing, of too many shapes, or with text, pictures, CSS."""
    root = _parse(name, svg)
    view = _view_box(root)
    if view is None or any(e.tag in UNUSABLE for e in root.iter()):
        return None
    _inline_uses(root)
    leaves = list(_painted(root, ()))
    if not 1 <= len(leaves) <= MAX_LEAVES:
        return None
    alone = _leaves_alone(root, view, leaves)
    flat = _flat(root, leaves, alone)
    return Drawing(name, root, flat, len(leaves), (view[3], view[2]), _candidates(leaves, alone))


def render_piece(drawing: Drawing, side_px: int) -> Piece | None:
    """A drawing with its longer side at `side_px`; None where nothing is seen."""
    scale = side_px / max(drawing.hw)
    size_px = (max(1, round(drawing.hw[1] * scale)), max(1, round(drawing.hw[0] * scale)))
    rgba = _render_svg(drawing.root, size_px)
    labels = _labels(_render_svg(drawing.flat, size_px, crisp=True), drawing.num_leaves)
    labels = _fill(labels, rgba[..., 3] > 127)
    areas = dict(enumerate(np.bincount(labels.ravel(), minlength=drawing.num_leaves + 1).tolist()))
    areas[0] = 0
    whole, *parts = nested_sets(drawing.candidates, areas) or [frozenset()]
    large = [part for part in parts if sum(areas[i] for i in part) >= MIN_PART_PX]
    return crop(drawing.name, rgba, labels, (whole, *large)) if whole else None


Leaf = tuple[Element, ...]  # a painted shape, after the groups around it


def _parse(name: str, svg: str) -> Element:
    """The tree without namespaces, with `style` spelled out as attributes."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise InputError(f"the drawing {name!r} is not valid SVG: {error}.") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
        for key in [k for k in element.attrib if "}" in k]:
            element.attrib.setdefault(key.rpartition("}")[2], element.attrib.pop(key))
        for declaration in element.attrib.pop("style", "").split(";"):
            key, colon, value = declaration.partition(":")
            if colon:
                element.set(key.strip(), value.strip())
    root.set("xmlns", _SVG)
    return root


def _view_box(root: Element) -> tuple[float, float, float, float] | None:
    try:
        if "viewBox" in root.attrib:
            x, y, w, h = (float(v) for v in root.attrib["viewBox"].replace(",", " ").split())
        else:
            x, y, w, h = 0, 0, *(float(root.attrib[k].removesuffix("px")) for k in ("width", "height"))
    except (ValueError, KeyError):
        return None
    if not (w > 0 and h > 0 and 0.1 < w / h < 10):
        return None
    root.attrib.update(viewBox=f"{x} {y} {w} {h}")
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    return x, y, w, h


def _inline_uses(root: Element) -> None:
    """Painted `<use>` become copies of what they show, so that each copy can have its own colour."""
    by_id = {e.get("id"): e for e in root.iter() if e.get("id")}

    def visit(parent: Element, depth: int) -> None:
        for i, child in enumerate(parent):
            target = by_id.get(child.get("href", "#")[1:]) if child.tag == "use" else None
            if target is not None and target.tag != "symbol" and depth < 4:
                attributes = {k: v for k, v in child.attrib.items() if k not in ("href", "x", "y", "width", "height")}
                move = f"translate({child.get('x', '0')} {child.get('y', '0')})"
                attributes["transform"] = f"{attributes.get('transform', '')} {move}".strip()
                shown = copy.deepcopy(target)
                shown.attrib.pop("id", None)
                group = Element("g", attributes)
                group.append(shown)
                parent[i] = child = group
            if child.tag not in NOT_PAINTED:
                visit(child, depth + 1)

    visit(root, 0)


def _painted(element: Element, around: Leaf) -> Iterator[Leaf]:
    for child in element:
        if child.tag in SHAPES:
            yield (*around, child)
        elif child.tag not in NOT_PAINTED and child.tag != "use":
            yield from _painted(child, (*around, child))


def _leaves_alone(root: Element, view: tuple[float, float, float, float], leaves: list[Leaf]) -> np.ndarray:
    """Alpha (N, CELL_PX, CELL_PX) of each shape alone, also where others cover it: one sheet of cells, one render."""
    columns = math.ceil(math.sqrt(len(leaves)))
    rows = math.ceil(len(leaves) / columns)
    sheet = Element("svg", {"xmlns": _SVG, "viewBox": f"0 0 {columns} {rows}"})
    sheet.extend([e for e in root if e.tag in NOT_PAINTED])
    inherited = {k: v for k, v in root.attrib.items() if k in ("fill", "stroke", "stroke-width", "fill-rule")}
    for i, leaf in enumerate(leaves):
        cell = Element("svg", {"x": str(i % columns), "y": str(i // columns), "width": "1", "height": "1"})
        cell.attrib.update(viewBox=" ".join(map(str, view)), preserveAspectRatio="none", **inherited)
        inner = cell
        for group in leaf[:-1]:
            copied = Element(group.tag, {k: v for k, v in group.attrib.items() if k != "id"})
            copied.extend([e for e in group if e.tag in NOT_PAINTED])
            inner.append(copied)
            inner = copied
        inner.append(leaf[-1])
        sheet.append(cell)
    alpha = _render_svg(sheet, (columns * CELL_PX, rows * CELL_PX))[..., 3]
    cells = alpha.reshape(rows, CELL_PX, columns, CELL_PX).swapaxes(1, 2)
    return np.asarray(cells.reshape(-1, CELL_PX, CELL_PX)[: len(leaves)])


def _is_translucent(alpha: np.ndarray) -> bool:
    """Told from the inside of the shape; a line has none, and its pixels are thin rather than translucent."""
    seen = (alpha > 16).astype(np.uint8)
    if not seen.any():
        return True
    inside = cv2.erode(seen, np.ones((3, 3), np.uint8)) > 0
    return float(alpha[inside].mean()) < TRANSLUCENT if inside.any() else float(alpha.max()) < TRANSLUCENT / 2


def _flat(root: Element, leaves: list[Leaf], alone: np.ndarray) -> Element:
    """The drawing with shape k in the colour of k, without transparency; translucent shapes left out."""
    flat = copy.deepcopy(root)
    for element in flat.iter():
        for key in ("opacity", "fill-opacity", "stroke-opacity", "filter", "mask", "mix-blend-mode"):
            element.attrib.pop(key, None)
    for k, (leaf, alpha) in enumerate(zip(_painted(flat, ()), alone), start=1):
        shape = leaf[-1]
        if _is_translucent(alpha):
            shape.set("display", "none")
            continue
        for paint, default in (("fill", "black"), ("stroke", "none")):
            value = next((e.get(paint) for e in reversed((flat, *leaf)) if e.get(paint)), default)
            shape.set(paint, "none" if value in ("none", "transparent") else _color_of(k))
    return flat


def _color_of(k: int) -> str:
    return f"#{k:02x}{255 - k:02x}{(k * 37) % 256:02x}"  # the last two say whether the first is what was painted


def _labels(rgba: np.ndarray, num_leaves: int) -> np.ndarray:
    k = rgba[..., 0].astype(np.int32)
    sure = (rgba[..., 3] == 255) & (rgba[..., 1] == 255 - k) & (rgba[..., 2] == (k * 37) % 256)
    return np.where(sure & (k <= num_leaves), k, 0).astype(np.uint8)


def _fill(labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Labels exactly where the drawing is seen: pixels without one take the nearest."""
    if not labels.any():
        return labels
    missing = seen & (labels == 0)
    if missing.any():
        _, nearest = cv2.distanceTransformWithLabels(
            (labels == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        of_nearest = np.zeros(int(nearest.max()) + 1, np.uint8)
        of_nearest[nearest[labels > 0]] = labels[labels > 0]
        labels = np.where(missing, of_nearest[nearest], labels)
    return np.where(seen, labels, 0).astype(np.uint8)


def _candidates(leaves: list[Leaf], alone: np.ndarray) -> list[frozenset[int]]:
    """Sets of shapes that may be a part: all, each with what is painted onto it, each group."""
    num = len(leaves)
    opaque = np.array([not _is_translucent(a) for a in alone])
    cover = (alone > 64).reshape(num, -1).astype(np.float32)
    area = cover.sum(axis=1)
    inside = cover @ cover.T / np.maximum(area[:, None], 1)  # [i, j]: share of i that lies on j
    onto: dict[int, set[int]] = {i: {i + 1} for i in range(num)}
    for i in range(num - 1, 0, -1):
        below = [j for j in range(i) if opaque[j] and area[j] > area[i] and inside[i, j] >= ON]
        if below:
            onto[min(below, key=lambda j: (area[j], -j))] |= onto[i]
    groups: dict[int, set[int]] = {}
    for i, leaf in enumerate(leaves):
        for group in leaf[:-1]:
            groups.setdefault(id(group), set()).update(onto[i])
    found = [frozenset(onto[i]) for i in range(num) if opaque[i]]
    found += [frozenset(g) for g in groups.values()]
    return [frozenset(range(1, num + 1)), *found]


def _render_svg(root: Element, size_px: tuple[int, int], crisp: bool = False) -> np.ndarray:
    """RGBA (h, w, 4) uint8 of a tree at `size_px` (w, h)."""
    root.set("width", str(size_px[0]))
    root.set("height", str(size_px[1]))
    root.set("preserveAspectRatio", "none")
    svg = ElementTree.tostring(root, encoding="unicode")
    policy = "crisp_edges" if crisp else "geometric_precision"
    try:
        encoded = require_resvg()(svg_string=svg, shape_rendering=policy, skip_system_fonts=True)
    except ValueError as error:
        raise InputError(f"a drawing cannot be rendered: {error}.") from error
    image = cv2.imdecode(np.frombuffer(bytes(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError("resvg gave no picture.")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA))
