"""The frame of a corpus's page: one HTML document that loads nothing and runs nothing, its tables and its texts.

Texts of a corpus are anyone's: all of them pass through `text`, and the document forbids scripts and loading.
"""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

from rewardscale.data.describe.pairs import Pieces, cut

SHOWN, FOLDED = 700, 12_000  # characters of a text that are shown at once, and at all
_JOINERS = "\u200c\u200d"  # invisible, and part of how words and emoji are written


class Html(str):
    """Text that is HTML already."""


def text(value: object) -> Html:
    """Escaped. Characters that would change what surrounds them or that nobody sees stand as their number."""
    out = []
    for character in str(value):
        plain = character in "\n\t" or character in _JOINERS or unicodedata.category(character)[0] != "C"
        out.append(escape(character) if plain else f"<span class=code>U+{ord(character):04X}</span>")
    return Html("".join(out))


def link(address: str, name: str) -> Html:
    """A link if the address is http(s), else the name alone."""
    try:
        web = urlsplit(address).scheme in ("http", "https")
    except ValueError:
        web = False
    if not web:
        return text(name)
    return Html(f"<a href='{escape(address)}' rel='noreferrer nofollow'>{text(name)}</a>")


def bar(share: float, colour: str = "blue") -> Html:
    """A bar of that share of its cell."""
    return Html(f"<i class=bar style='width:{100 * share:.1f}%;background:var(--{colour})'></i>")


def number(value: float | None) -> str:
    """1,234 or 0.0123; a dash for None."""
    if value is None:
        return "–"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    )


class Figures(str):
    """A number in its final form."""


def percent(share: float) -> Figures:
    return Figures(f"{100 * share:.1f} %")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "None.") -> Html:
    """A table: numbers stand right, strings left; what is not Html is escaped."""
    if not rows:
        return Html(f"<p class=soft>{text(empty)}</p>")
    right = [all(isinstance(row[i], int | float | Figures | None) for row in rows) for i in range(len(head))]

    def line(tag: str, cells: Sequence[Any]) -> str:
        out = []
        for cell, side in zip(cells, right, strict=True):
            shown = cell if isinstance(cell, str) else number(cell)
            inner = shown if isinstance(shown, Html) else text(shown)
            out.append(f"<{tag}{' class=n' if side else ''}>{inner}</{tag}>")
        return "".join(out)

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return Html(
        f"<div class=wide><table><thead><tr>{line('th', head)}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def tiles(entries: Sequence[tuple[str, str]]) -> Html:
    """Headline numbers: (number, what it counts)."""
    inner = "".join(f"<div><b>{text(value)}</b><span>{text(name)}</span></div>" for value, name in entries)
    return Html(f"<div class=tiles>{inner}</div>")


def figure(drawing: str, caption: str, name: str) -> Html:
    """An inline SVG with its caption."""
    drawing = drawing.replace("<svg ", f"<svg role='img' aria-label='{escape(name)}' ", 1)
    return Html(f"<figure id='{escape(name)}'>{drawing}<figcaption>{text(caption)}</figcaption></figure>")


def folded(summary: str, body: str) -> Html:
    return Html(f"<details><summary>{text(summary)}</summary>{body}</details>")


def long_text(pieces: Pieces, mark: str = "") -> Html:
    """A text in pieces, the marked ones in <mark class=...>; what is beyond SHOWN characters is folded."""
    whole = "".join(piece for piece, _ in pieces)
    words = (
        whole.rfind(" ", SHOWN - 60, SHOWN) + 1
    )  # not in the middle of a word, if it is no longer than that
    head, rest = cut(pieces, len(whole) if len(whole) <= SHOWN else words or SHOWN)
    rest, more = cut(rest, FOLDED - SHOWN)
    out = f"<div class=text dir=auto>{_marked(head, mark)}</div>"
    if rest:
        count = sum(len(piece) for piece, _ in rest + more)
        last = sum(len(piece) for piece, _ in more)
        tail = f"<p class=soft>{last:,} further characters are not shown.</p>" if last else ""
        inner = f"<div class=text dir=auto>{_marked(rest, mark)}</div>{tail}"
        out += folded(f"{count:,} more characters", inner)
    return Html(out)


def _marked(pieces: Pieces, mark: str) -> str:
    return "".join(f"<mark class={mark}>{text(piece)}</mark>" if on else text(piece) for piece, on in pieces)


def page(title: str, body: str, palette: str) -> str:
    """A whole document; `title` is text, `body` HTML, `palette` CSS variables of the colours."""
    return _PAGE.format(title=text(title), style=palette + _STYLE, body=body)


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --tint: #f5f5f3; --link: #00558c;
  --chosen: #d7e9f7; --rejected: #fde3cf; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171717; --tint: #222; --link: #86c5f4; --chosen: #0f3f5f; --rejected: #5f3210; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
.soft, .kicker, figcaption, summary { color: var(--soft); }
.kicker { margin: .2rem 0 1rem; font-size: .9rem; }
.warn { color: var(--orange); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div { background: var(--tint); border-radius: 8px; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.2rem; line-height: 1.2; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tiles span { font-size: .82rem; color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 2rem; }
figure { margin: .8rem 0; max-width: 30rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .86rem; margin-top: .3rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); }
td { min-width: 2.5rem; overflow-wrap: normal; } td:first-child { min-width: 8rem; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
.n { text-align: right; white-space: nowrap; }
.bar { display: block; height: .7rem; margin-top: .35rem; min-width: 1px; border-radius: 2px; }
td:has(> .bar) { min-width: 7rem; }
@media (max-width: 34rem) { td:has(> .bar) { min-width: 4rem; } }
.reason { min-width: 16rem; }
details { margin: .4rem 0; } summary { cursor: pointer; }
.code { font-size: .72em; border: 1px solid var(--soft); border-radius: 3px; padding: 0 .2em; color: var(--soft);
  unicode-bidi: isolate; }
.pair { border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; margin: .9rem 0; }
.pair header { font-size: .84rem; color: var(--soft); margin-bottom: .3rem; }
.pair header b { color: var(--ink); }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem; }
.sides > div { min-width: 0; }
.role { font-size: .76rem; font-weight: 600; letter-spacing: .03em; text-transform: uppercase; color: var(--soft);
  margin-top: .5rem; }
.role.chosen { color: var(--blue); } .role.rejected { color: var(--orange); }
.text { white-space: pre-wrap; unicode-bidi: isolate; overflow-wrap: anywhere; font-size: .9rem; line-height: 1.45; }
.prompt { background: var(--tint); border-radius: 6px; padding: .1rem .7rem .5rem; margin-bottom: .3rem; }
mark { color: inherit; border-radius: 2px; box-decoration-break: clone; -webkit-box-decoration-break: clone; }
mark.chosen { background: var(--chosen); box-shadow: inset 0 -2px var(--blue); }
mark.rejected { background: var(--rejected); box-shadow: inset 0 -2px var(--orange); }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
