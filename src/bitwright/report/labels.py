"""Where the names of marks stand: beside, above or below them, over no other mark and no other name.

Each mark is tried in turn, places in the order of taste; a name for which none is free is left to the mark's `<title>`.
Widths are estimated, since there is no font to ask: 7.8 units for a character of 13.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

Box = tuple[float, float, float, float]  # left, top, right, bottom
CHARACTER, ASCENT, DESCENT = 7.8, 11.0, 3.0
BETWEEN = 5.0  # two names, at least, along a line
MARK = 6.0  # half the room of a mark
PLACES = (  # along, down, anchor
    (9, -7, "start"), (-9, -7, "end"), (9, 15, "start"), (-9, 15, "end"), (0, -11, "middle"), (0, 20, "middle"),
    (11, 4, "start"), (-11, 4, "end"), (14, -22, "start"), (-14, -22, "end"), (14, 30, "start"), (-14, 30, "end"),
)  # fmt: skip


def box(text: str, x: float, y: float, anchor: str) -> Box:
    """What a text covers whose baseline is at `y`."""
    width = CHARACTER * len(text)
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - ASCENT, left + width, y + DESCENT


def limit_boxes(name: str, *, right: float, y: float) -> list[Box]:
    """What a limit covers: its name, which ends at the right above it, and its line."""
    return [box(name, right, y - 6, "end"), (0.0, y - 2, right, y + 2)]


def place_labels(
    labels: Sequence[str],
    marks: Sequence[tuple[float, float]],
    *,
    right: float,
    bottom: float,
    left: float = 0.0,
    taken: Sequence[Box] = (),
) -> list[Markup]:
    """SVG texts for the marks that have a label, within the sheet."""
    held = [*taken, *((x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks)]
    texts = []
    for label, (x, y) in zip(labels, marks, strict=True):
        for along, down, anchor in PLACES if label else ():
            covered = box(label, x + along, y + down, anchor)
            inside = covered[0] >= left and covered[1] >= 0 and covered[2] <= right and covered[3] <= bottom
            if inside and not any(_cross(covered, other) for other in held):
                held.append((covered[0] - BETWEEN, covered[1], covered[2] + BETWEEN, covered[3]))
                text = Markup('<text class="value" x="{}" y="{}" text-anchor="{}">{}</text>')
                texts.append(text.format(round(x + along, 1), round(y + down, 1), anchor, label))
                break
    return texts


def _cross(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
