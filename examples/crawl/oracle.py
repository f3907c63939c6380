"""The pages of a site by a plain breadth-first search, one after the other.

    python examples/crawl/oracle.py URL

Prints each page's address, and its bytes, sorted. Reads tags with Python's
own HTML parser, so that it shares no line with links.c.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections import deque
from html.parser import HTMLParser
from urllib.parse import quote, urldefrag, urljoin, urlsplit


class Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(reversed(attrs)).get("href")  # the first, if given twice
        if tag == "a" and href:
            self.found.append(href)


def crawl(start: str) -> dict[str, bytes]:
    site = urlsplit(start).netloc
    pages: dict[str, bytes] = {}
    seen, queue = {start}, deque([start])
    while queue:
        url = queue.popleft()
        try:
            with urllib.request.urlopen(url) as answer:  # follows redirects
                body = answer.read()
                html = answer.headers.get_content_type() == "text/html"
                if answer.url != url:
                    seen.add(answer.url)
                pages[answer.url] = body
        except urllib.error.HTTPError:
            continue
        anchors = Anchors()
        if html:
            anchors.feed(body.decode("utf-8", "replace"))
        for link in anchors.found:
            try:
                parts = urlsplit(urldefrag(urljoin(answer.url, link.strip()))[0])
            except ValueError:
                continue
            if parts.scheme not in ("http", "https") or parts.netloc != site:
                continue
            page = parts._replace(
                path=quote(parts.path or "/", safe="/%:@!$&'()*+,;=~"), query=quote(parts.query, safe="/%:@!$&'()*+,;=~?")
            ).geturl()
            if page not in seen:
                seen.add(page)
                queue.append(page)
    return pages


if __name__ == "__main__":
    for url, body in sorted(crawl(sys.argv[1]).items()):
        print(url, len(body))
