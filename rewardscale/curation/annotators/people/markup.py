"""Markdown of strangers as HTML that does nothing: no HTML of theirs, no image, links that carry no trust.

What two responses do not have in common is marked in the text as it is shown: the difference is taken of the texts
between the markup, so marking cannot change what the markup means.
"""

import dataclasses
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup, escape

from rewardscale.data.describe.pairs import MOST_COMPARED, Pieces, difference

MOST_MARKDOWN = 30_000  # characters; a longer text is shown as it is, for the parser's time may grow faster
_MOST_NESTED = 30
_MOST_MATCHES = 1_500_000  # of words of one text with words of the other: so many take about a second
_LINK = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)
# Characters that reorder or hide what stands around them. Joiners (U+200C, U+200D) stay: emoji and scripts need them.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_LEAVES = ("text", "code_inline", "code_block", "fence", "html_block", "html_inline")


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A response as safe HTML: `formatted`, and its `source` as it is; None where it is shown as source anyway."""

    formatted: Markup
    source: Markup | None


def render(text: str) -> Markup:
    """A text as safe HTML."""
    return _render(text)


def render_pair(first: str, second: str) -> tuple[Shown, Shown]:
    """Two texts as safe HTML, `<mark>` around the words of each that the other lacks (see `describe.pairs`)."""
    return _render_pair(first, second)


def compared(first: str, second: str) -> bool:
    """Whether the difference was looked for in the whole of both texts."""
    return max(len(first), len(second)) <= MOST_COMPARED


def visible(text: str) -> str:
    """The text with control, bidirectional and invisible characters written out, as ⟦RIGHT-TO-LEFT OVERRIDE⟧."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub(lambda found: f"⟦{_name(found[0])}⟧", text)


def _name(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}")


@functools.lru_cache(maxsize=256)
def _render(text: str) -> Markup:
    shown = visible(text)
    tokens = _parse(shown)
    if tokens is None:
        return _plain([(shown, False)])
    return _html(tokens)


@functools.lru_cache(maxsize=128)
def _render_pair(first: str, second: str) -> tuple[Shown, Shown]:
    shown = visible(first), visible(second)
    source = [_plain(pieces) for pieces in _difference(*shown)]
    parsed = [_parse(text) for text in shown]
    leaves = [
        [text] if tokens is None else [t.content for t in _leaves(tokens)]
        for text, tokens in zip(shown, parsed, strict=True)
    ]
    sides = _difference("\n".join(leaves[0]), "\n".join(leaves[1]))
    one, other = (
        Shown(_marked(tokens, texts, pieces), None if tokens is None else plain)
        for tokens, texts, pieces, plain in zip(parsed, leaves, sides, source, strict=True)
    )
    return one, other


def _difference(one: str, other: str) -> tuple[Pieces, Pieces]:
    """The difference; without marks where the same few words stand in both so often that it would take long."""
    counts = [Counter(text[:MOST_COMPARED].split()) for text in (one, other)]
    if sum(number * counts[1][word] for word, number in counts[0].items()) > _MOST_MATCHES:
        return [(one, False)], [(other, False)]
    return difference(one, other)


def _marked(tokens: list[Token] | None, leaves: Sequence[str], pieces: Pieces) -> Markup:
    if tokens is None:
        return _plain(pieces)
    for token, part in zip(_leaves(tokens), _split(pieces, leaves), strict=True):
        token.meta["pieces"] = part
    return _html(tokens)


def _split(pieces: Pieces, leaves: Sequence[str]) -> Iterator[Pieces]:
    """The pieces of the leaves joined by one character, leaf by leaf."""
    queue = list(reversed(pieces))
    for leaf in leaves:
        mine: Pieces = []
        left = len(leaf)
        while left:
            text, marked = queue.pop()
            mine.append((text[:left], marked))
            if rest := text[left:]:
                queue.append((rest, marked))
            left -= min(left, len(text))
        yield mine
        if queue:  # the character between
            text, marked = queue.pop()
            if text[1:]:
                queue.append((text[1:], marked))


def _leaves(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        if token.type == "image":  # shown as its source, see _image
            continue
        if token.children:
            yield from _leaves(token.children)
        elif token.type in _LEAVES and token.content:
            yield token


def _parse(text: str) -> list[Token] | None:
    """Markdown's tokens; None for a text that is better shown as it is."""
    if len(text) > MOST_MARKDOWN:
        return None
    try:
        tokens = _markdown().parse(text, {})
    except RecursionError:
        return None
    if any(token.level >= _MOST_NESTED - 2 for token in tokens):  # the parser drops what lies deeper
        return None
    return tokens


def _html(tokens: list[Token]) -> Markup:
    markdown = _markdown()
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # every rule below escapes


def _plain(pieces: Pieces) -> Markup:
    return Markup('<pre class="plain">{}</pre>').format(_pieces(pieces))


def _pieces(pieces: Pieces) -> Markup:
    return Markup("").join(
        Markup("<mark>{}</mark>").format(text) if marked else escape(text) for text, marked in pieces
    )


@functools.cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt(
        "js-default", {"html": False, "linkify": False, "typographer": False, "maxNesting": _MOST_NESTED}
    )
    rules: dict[str, Callable[..., str]] = {
        "text": lambda tokens, i, *_: _leaf(tokens[i]),
        "code_inline": lambda tokens, i, *_: f"<code>{_leaf(tokens[i])}</code>",
        "code_block": lambda tokens, i, *_: f"<pre><code>{_leaf(tokens[i])}</code></pre>\n",
        "fence": _fence,
        "link_open": _link,
        "image": _image,
        "th_open": _cell,
        "td_open": _cell,
        "softbreak": lambda *_: "<br>\n",  # a response's line is a line
    }
    for name, rule in rules.items():
        markdown.add_render_rule(name, _method(rule))
    markdown.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    return markdown


def _method(rule: Callable[..., str]) -> Callable[..., str]:
    return lambda self, tokens, index, options, env: rule(tokens, index, options, env)


def _leaf(token: Token) -> str:
    return str(_pieces(token.meta.get("pieces") or [(token.content, False)]))


def _fence(tokens: Sequence[Token], index: int, *_: Any) -> str:
    """Code, what stands beside its fence (a language, as a rule) above it: nothing is hidden."""
    info = tokens[index].info.strip()
    label = f'<span class="language">{escapeHtml(info)}</span>' if info else ""
    return f"<pre>{label}<code>{_leaf(tokens[index])}</code></pre>\n"


def _link(tokens: Sequence[Token], index: int, *_: Any) -> str:
    """A link to http or https that tells the other side nothing; its goal stands in its title."""
    href = str(tokens[index].attrs.get("href", ""))
    if not _LINK.match(href):
        return '<a class="dead">'
    shown = escapeHtml(href)
    return f'<a href="{shown}" title="{shown}" target="_blank" rel="noopener noreferrer nofollow">'


def _cell(tokens: Sequence[Token], index: int, *_: Any) -> str:
    """A table's cell; its alignment is a class, for the page allows no style in its text."""
    token = tokens[index]
    side = str(token.attrs.get("style", "")).removeprefix("text-align:")
    return f'<{token.tag} class="{side}">' if side in ("left", "right", "center") else f"<{token.tag}>"


def _image(tokens: Sequence[Token], index: int, *_: Any) -> str:
    """An image is named and never loaded."""
    token = tokens[index]
    text = f"image: {token.content or 'no description'}; {token.attrs.get('src', '')}"
    return f'<span class="image">[{escapeHtml(text)}]</span>'
