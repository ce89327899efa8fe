"""ROC curves as one SVG that stands alone: panels side by side, a line of each telling its area."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_SIDE, _GAP, _LEFT, _TOP, _BELOW = 210, 36, 46, 30, 106
_STYLES = (("#2a5db0", "2 3"), ("#bf4b0c", "7 3"), ("#08745a", "none"))


@dataclass(frozen=True)
class Panel:
    """A test, and its curves (false positives, true positives) by label."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def roc_figure(panels: Sequence[Panel]) -> str:
    """The figure as SVG text."""
    width = _LEFT + len(panels) * (_SIDE + _GAP)
    height = _TOP + _SIDE + _BELOW
    spoken = "; ".join(f"{panel.title}: {', '.join(panel.lines)}" for panel in panels)
    drawn = "".join(_panel(panel, _LEFT + number * (_SIDE + _GAP)) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(spoken)}" font-family="sans-serif" font-size="12" fill="#1e1a2b">\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
        f'<text x="12" y="{_TOP + _SIDE / 2:g}" text-anchor="middle" '
        f'transform="rotate(-90 12 {_TOP + _SIDE / 2:g})">seen items found</text>\n{drawn}</svg>\n'
    )


def _panel(panel: Panel, left: float) -> str:
    bottom = _TOP + _SIDE
    parts = [
        f'<text x="{left}" y="{_TOP - 10}" font-weight="bold">{escape(panel.title)}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#696474"/>',
        f'<path d="M{left} {bottom}L{left + _SIDE} {_TOP}" stroke="#aaa" stroke-dasharray="3 4"/>',
    ]
    for share in (0, 0.5, 1):
        x, y = left + share * _SIDE, bottom - share * _SIDE
        parts.append(f'<text x="{x:g}" y="{bottom + 16}" text-anchor="middle">{share:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{share:g}</text>')
    parts.append(
        f'<text x="{left + _SIDE / 2:g}" y="{bottom + 34}" text-anchor="middle">unseen items taken for seen</text>'
    )
    for number, (label, curve) in enumerate(panel.lines.items()):
        colour, dash = _STYLES[number % len(_STYLES)]
        points = "L".join(f"{left + x * _SIDE:.1f} {bottom - y * _SIDE:.1f}" for x, y in curve)
        look = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        at = bottom + 54 + 16 * number
        parts.append(f'<path d="M{points}" {look}/>')
        parts.append(f'<path d="M{left} {at}h26" {look}/>')
        parts.append(f'<text x="{left + 34}" y="{at + 4}">{escape(label)}</text>')
    return "".join(f"{part}\n" for part in parts)
