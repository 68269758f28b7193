"""HTML written so that nothing from a run can be taken for markup: every text is escaped unless it is `Html`."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from typing import Any

from slt.results.summary import finite


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(child: Any) -> str:
    """`child` as markup that shows it; `Html` as it is."""
    return child if isinstance(child, Html) else html.escape(str(child))


VOID = ("img", "meta", "br")


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children and attributes are escaped, those that are None left out; class_ stands for class."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    inner = "".join(escaped(child) for child in children if child is not None)
    return Html(f"<{name}{head}>" if name in VOID else f"<{name}{head}>{inner}</{name}>")


def table(heads: Iterable[Any], rows: Iterable[Iterable[Any]]) -> Html:
    """A table; a cell that reads as a number, or as a number with its error, is set to the right."""
    top = tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads)))
    body = tag("tbody", *(tag("tr", *(tag("td", c, class_=_kind(c)) for c in row)) for row in rows))
    return tag("div", tag("table", top, body), class_="scroll")


NUMBER = re.compile(r"-|[-+]?[\d.]+(e[-+]?\d+)?( ± [\d.]+(e[-+]?\d+)?)?")


def _kind(cell: Any) -> str | None:
    return "number" if not isinstance(cell, Html) and NUMBER.fullmatch(str(cell)) else None


def details(summary: Any, *children: Any) -> Html:
    """What opens when its summary is clicked."""
    return tag("details", tag("summary", summary), *children)


def code(text: str) -> Html:
    """A block of text as it is."""
    return tag("pre", tag("code", text))


def picture(content: bytes, caption: str, name: str) -> Html:
    """A PNG inside the page, with its caption."""
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    image = tag("img", src=source, alt=caption if caption else name, id=f"figure-{name}")
    return tag("figure", image, tag("figcaption", tag("b", name), f" {caption}"))


def data(name: str, content: Any) -> Html:
    """JSON for a script of the page: no text in it can end the element, whatever it says. Not-finite becomes null."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Html(text), type="application/json", id=name)


def document(title: str, generator: str, style: str, body: Iterable[Html], scripts: Iterable[str]) -> str:
    """The page. Its policy lets a browser run these very scripts and load nothing, from nowhere."""
    programs = list(scripts)
    sums = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(p.encode()).digest()).decode()}'" for p in programs)
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sums}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=generator),
        tag("title", title),
        tag("style", Html(style)),
    )
    parts = [*body, *(tag("script", Html(program)) for program in programs)]
    return "<!doctype html>\n" + tag("html", head, tag("body", *parts), lang="en") + "\n"
