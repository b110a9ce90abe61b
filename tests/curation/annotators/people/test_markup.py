"""Markdown of strangers: harmless, complete, and marked where two texts differ."""

import html
import html.parser
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rewardscale.curation.annotators.people import markup

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><animate onbegin=alert(1)>",
    "<style>body{display:none}</style><link rel=stylesheet href=http://evil.example/x.css>",
    "[click](javascript:alert(1)) [click](JaVaScRiPt:alert(1)) [c](java&#115;cript:alert(1)) <javascript:alert(1)>",
    "[d](data:text/html,<script>alert(1)</script>) [f](file:///etc/passwd) [v](vbscript:x)",
    "[r](/logout) [s](//evil.example) [t](http:/x)",
    "![i](http://evil.example/pixel.png) ![i](data:image/svg+xml,<svg/onload=alert(1)>)",
    '[t](http://a.example "onmouseover=alert(1) x=\'") [q](http://a.example/"onclick="alert(1)) <http://a.example/"><b>',
    '```"><script>alert(1)</script>\ncode</code></pre><script>alert(1)</script>\n```',
    "`</code><script>alert(1)</script>`",
    '<div hx-get="/logout" hx-trigger="load"></div><form action=http://evil.example><input name=csrf>',
    "[x]: javascript:alert(1)\n[x] [y][x]",
    "| <script>a</script> | ![](http://e.example) |\n|:-:|---|\n| [a](javascript:a) | `<b>` |",
    "<!-- <script>alert(1)</script> --> &lt;script&gt; &#60;script&#62;",
    "<a href=http://evil.example target=_top ping=http://evil.example>x</a>",
    "<base href=http://evil.example><meta http-equiv=refresh content='0;url=http://evil.example'>",
]
ALLOWED = {
    "p", "br", "strong", "em", "s", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "a", "span", "mark", "table",
    "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
CLASSES = {"plain", "language", "image", "dead", "left", "right", "center"}


class Reader(html.parser.HTMLParser):
    """Fails on every tag and attribute that is not allowed; collects the text and the marked words."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.marked, self._marks = "", "", 0

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert value is not None, name
            match name:
                case "href":
                    assert re.match(r"https?://[^/]", value, re.IGNORECASE), value
                case "class":
                    assert value in CLASSES, value
                case "start":
                    assert value.isdigit()
                case _:
                    assert name in ("title", "target", "rel"), name
        if tag == "a" and (given := dict(attrs)).get("href"):
            assert given["rel"] == "noopener noreferrer nofollow" and given["target"] == "_blank"
        self._marks += tag == "mark"

    def handle_endtag(self, tag):
        self._marks -= tag == "mark"

    def handle_data(self, data):
        self.text += data
        self.marked += data if self._marks else ""

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment  # type: ignore[assignment]


def read(rendered: str) -> Reader:
    reader = Reader()
    reader.feed(str(rendered))
    reader.close()
    return reader


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_become_text(payload):
    read(markup.render(payload))
    for shown in markup.render_pair(payload, payload + " and more"):
        read(shown.formatted)
        if shown.source is not None:
            assert read(shown.source).text.startswith(markup.visible(payload))


@given(st.text(alphabet=st.sampled_from("<>\"'`&*_[]()!#|:-~\\ \n\tab1./=;éhtp\u202e\u200b"), max_size=120))
@settings(max_examples=200, deadline=None)
@example("[a](http://\u202e)")
def test_no_text_makes_markup_of_its_own(text):
    read(markup.render(text))
    one, other = markup.render_pair(text, text[::-1])
    read(one.formatted)
    read(other.formatted)
    assert one.source is not None
    assert read(one.source).text.split() == markup.visible(text).split()


def test_marking_changes_no_markup_and_marks_what_differs():
    one = "Take **two** eggs, `flour` and\n\n- [milk](http://a.example)\n- salt\n\n```py\nmix()\n```\n"
    other = one.replace("two", "three").replace("salt", "sugar").replace("mix()", "bake()")
    for text, shown, words in zip(
        (one, other), markup.render_pair(one, other), ("twosaltmix()", "threesugarbake()"), strict=True
    ):
        assert read(shown.formatted).marked == words
        assert re.sub("</?mark>", "", shown.formatted) == markup.render(text)
    same = markup.render_pair(one, one)
    assert "<mark>" not in same[0].formatted + same[1].formatted


def test_what_hides_or_reorders_is_written_out():
    shown = str(markup.render("pay \u202e001$ `x\u2066y` \u200bz \x00\x1b[31m"))
    assert "⟦RIGHT-TO-LEFT OVERRIDE⟧001$" in shown and "⟦LEFT-TO-RIGHT ISOLATE⟧" in shown
    assert "⟦ZERO WIDTH SPACE⟧" in shown and "⟦U+001B⟧" in shown
    assert not set(shown) & set("\u202e\u2066\u200b\x1b")
    assert markup.visible("👩‍👩‍👧 نی‌ز a\tb\r\nc") == "👩‍👩‍👧 نی‌ز a\tb\nc"


@pytest.mark.parametrize(
    "text",
    [">" * 5000 + "x", "- " * 5000 + "x", "`" * 20 + "secret",
     "* x\n" + "".join(" " * 2 * i + "* y\n" for i in range(200))],
)  # fmt: skip
def test_nothing_is_hidden_where_a_parser_gives_up(text):
    shown = read(markup.render(text)).text
    for letter in "xy":
        assert shown.count(letter) == text.count(letter)
    assert ("secret" in shown) == ("secret" in text)


def test_a_megabyte_and_worse_take_little_time():
    for text in ("a" * 1_000_000, "word " * 200_000, "[" * 30_000, "a\n" * 15_000, "![[" * 10_000):
        started = time.process_time()
        one, _ = markup.render_pair(text, text + "x")
        assert time.process_time() - started < 15
        assert len(read(one.formatted).text) > len(text) // 10


def test_a_long_text_is_escaped_too():
    text = "<script>alert(1)</script>" * 2000
    assert html.unescape(read(markup.render(text)).text) == text
