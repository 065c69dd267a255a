"""A picture as SVG: rectangles, lines and words, written in the order of drawing.

Text of our own rather than a plotting library's, so that the same data give the same bytes under
every version of everything, words stay words, and a page in the dark can have a dark picture.
"""

from __future__ import annotations

from html import escape

#: A card of its own colour under everything: legible on pages of any colour. `ink` is for words on
#: the card, `dark` for words on the light colours of the palette, which are the same by night.
STYLE = """
text{font-family:"DejaVu Sans",Verdana,system-ui,sans-serif;font-size:12px}
.mono{font-family:"DejaVu Sans Mono",Menlo,Consolas,monospace}
.card{fill:#fcfcfa;stroke:#d5d5cf}
.ink{fill:#1d252c}.soft{fill:#5d6870}.dark{fill:#16202b}.alarm{fill:#b3261e}
.empty{fill:#eff1ef}.pale{fill:#d9dedc}.grid{stroke:#fcfcfa}.rule{stroke:#5d6870}.axis{stroke:#d9dedc}.cut{stroke:#b3261e}
.bold{font-weight:bold}.middle{text-anchor:middle}.end{text-anchor:end}
@media (prefers-color-scheme:dark){
.card{fill:#171c21;stroke:#39424a}
.ink{fill:#e8ecee}.soft{fill:#a3aeb6}.alarm{fill:#ff8a80}
.empty{fill:#262d34}.pale{fill:#3a444c}.grid{stroke:#171c21}.axis{stroke:#3a444c}.rule{stroke:#a3aeb6}.cut{stroke:#ff8a80}
}
"""

#: By octet: its lower and its upper threadgroup.
OCTETS = (
    ("#a3cdf4", "#62a4e2"),
    ("#ffcd90", "#f19b45"),
    ("#aadea5", "#68ba69"),
    ("#dbbded", "#b183d2"),
)
#: One after the other: sets, WMMAs.
SERIES = ("#9fd8d2", "#f3c76b", "#e79aa8", "#a9b4e6")


def of_threadgroup(number: int) -> str:
    """The colour of one of a warp's eight threadgroups."""
    return OCTETS[number % 4][number // 4]


class Picture:
    """Grows by what is drawn; ``str`` is the file. Lengths are pixels, y goes down."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
            f'width="{_n(width)}" height="{_n(height)}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
        ]
        self.rect(0.5, 0.5, width - 1, height - 1, "card", radius=10)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        radius: float = 0,
        opacity: float = 1,
    ) -> None:
        """fill: a colour ``#...``, or a class of the style."""
        kind = "fill" if fill.startswith("#") else "class"
        more = f' rx="{_n(radius)}"' if radius else ""
        more += f' opacity="{_n(opacity)}"' if opacity != 1 else ""
        self.parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
            f'{kind}="{fill}"{more}/>'
        )

    def line(self, x: float, y: float, to_x: float, to_y: float, kind: str, width: float) -> None:
        self.lines([(x, y, to_x, to_y)], kind, width)

    def lines(self, ends: list[tuple[float, float, float, float]], kind: str, width: float) -> None:
        """Straight ones, from (x, y) to (x, y)."""
        path = "".join(f"M{_n(x)} {_n(y)}" + _to(x, y, u, v) for x, y, u, v in ends)
        self.parts.append(f'<path d="{path}" class="{kind}" stroke-width="{_n(width)}"/>')

    def outline(self, x: float, y: float, width: float, height: float) -> None:
        self.parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
            'fill="none" class="rule" stroke-width="1.5"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "ink", size: float = 0) -> None:
        """y: of the middle of its small letters. kind: classes of the style; words begin at x,
        or have it in the middle or at their end."""
        style = f' style="font-size:{_n(size)}px"' if size else ""
        down = 0.36 * (size or 12)
        self.parts.append(
            f'<text x="{_n(x)}" y="{_n(y + down)}" class="{kind}"{style}>{escape(words)}</text>'
        )

    def grid(
        self, x: float, y: float, columns: int, rows: int, width: float, height: float
    ) -> None:
        """An empty one; width and height of a cell."""
        self.rect(x, y, columns * width, rows * height, "empty")
        right, bottom = x + columns * width, y + rows * height
        ends = [(x + i * width, y, x + i * width, bottom) for i in range(1, columns)]
        ends += [(x, y + i * height, right, y + i * height) for i in range(1, rows)]
        self.lines(ends, "grid", 1)

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


def _to(x: float, y: float, to_x: float, to_y: float) -> str:
    """The shortest way to say it; most lines are level or plumb."""
    if y == to_y:
        return f"H{_n(to_x)}"
    return f"V{_n(to_y)}" if x == to_x else f"L{_n(to_x)} {_n(to_y)}"


def _n(number: float) -> str:
    return f"{round(number, 2):g}"
