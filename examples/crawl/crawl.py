"""crawl: mirrors a site into a folder, each page once.

    python examples/crawl/crawl.py http://127.0.0.1:8000/ OUT

An async Python task fetches a page and stores it; the C handler `links`
(links.c) finds the addresses in it; each new one on the same host becomes a
task. `unique` with scope "job" keeps a set per job, so no page is fetched
twice, however many link to it. No page waits for the pages that it links to:
the job ends when the last of them has.

A page that is missing (404) fails its task and nothing else. The file of a
page is named by its address, and written whole or not at all, so a task that
runs again after a crash changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from dynatask import App, Fatal, Unique

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(os.environ.get("DTASK_BUILD", ROOT / "build")) / "examples/crawl/links.so"
PAGE_MAX = 32 << 20
CONNECTIONS = 16
TIMEOUT = 30.0

app = App("crawl")
connections = asyncio.Semaphore(CONNECTIONS)  # of this worker


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def get(url: str) -> Answer:
    """One GET by HTTP/1.0: the body ends with the connection, or with its length."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    async with connections:
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or (443 if secure else 80), ssl=secure or None, limit=1 << 16
        )
        try:
            target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
            writer.write(f"GET {target} HTTP/1.0\r\nHost: {parts.netloc}\r\nUser-Agent: dynatask-crawl\r\n\r\n".encode("ascii"))
            await writer.drain()
            status = int((await reader.readline()).split()[1])
            headers: dict[str, str] = {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            body = bytearray()
            while block := await reader.read(1 << 16):
                body += block
                if len(body) > PAGE_MAX:
                    raise Fatal(f"{url} has more than {PAGE_MAX} bytes")
            if "content-length" in headers and len(body) != int(headers["content-length"]):
                raise ConnectionError(f"{url}: {len(body)} of {headers['content-length']} bytes came")
            return Answer(status, headers, bytes(body))
        finally:
            writer.close()


def on_site(base: str, link: str) -> str | None:
    """The page that `link` on page `base` names, in one spelling; None: another host, or no page."""
    try:
        parts = urlsplit(urldefrag(urljoin(base, link.strip()))[0])
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or parts.netloc != urlsplit(base).netloc:
        return None
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return f"{parts.scheme}://{parts.netloc}{path}{'?' + query if query else ''}"


def file_of(out: str, url: str) -> Path:
    """Where a page lies: its address, with the slashes made plain, so that no page can be another's folder."""
    parts = urlsplit(url)
    name = (parts.path + ("?" + parts.query if parts.query else "")).replace("/", "%2F")
    return Path(out) / name


def store(path: Path, body: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(body)
    part.replace(path)


@app.extern()
def links(html: bytes) -> list[bytes]: ...


@app.task(retries=3, timeout=TIMEOUT, unique=Unique("url", scope="job"))
async def fetch(url: str, out: str) -> int:
    """Returns how many addresses on this site the page names."""
    answer = await get(url)
    if 300 <= answer.status < 400 and "location" in answer.headers:
        found = [answer.headers["location"]]
    elif answer.status == 200:
        store(file_of(out, url), answer.body)
        html = answer.headers.get("content-type", "").startswith("text/html")
        found = [link.decode("utf-8", "replace") for link in await links.spawn(answer.body)] if html else []
    elif answer.status >= 500:
        raise ConnectionError(f"{url} answered {answer.status}")
    else:
        raise Fatal(f"{url} answered {answer.status}")
    pages = dict.fromkeys(page for link in found if (page := on_site(url, link)))
    for page in pages:
        fetch.using(may_fail=True).spawn(page, out)
    return len(pages)


def main() -> int:
    if len(sys.argv) != 3 or not sys.argv[1].startswith(("http://", "https://")):
        print("usage: crawl.py URL OUT   (OUT: a folder for the pages)", file=sys.stderr)
        return 2
    url, out = on_site(sys.argv[1], ""), os.path.abspath(sys.argv[2])
    assert url is not None
    os.makedirs(out, exist_ok=True)
    with app.worker(plugins=[str(PLUGIN)]):
        job = fetch.start(url, out)
        for info in job:
            print(f"{info.state}: {info.counts.succeeded} of {info.counts.added} tasks so far")
        job.result()
        print(f"pages={len(os.listdir(out))} missing={job.info().counts.failed} tasks={job.info().counts.added}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
