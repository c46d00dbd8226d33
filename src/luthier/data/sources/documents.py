"""The text of PDF, DOCX and HTML files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from luthier.core.errors import DataError
from luthier.core.extras import require_extra
from luthier.data.sources.sandbox import LIMITS, read_each

NEEDS = {".pdf": "pypdf", ".docx": "docx", ".html": "", ".htm": ""}
SECONDS = 60
MEMORY = 2 << 30
"""For one document."""

READER = (
    LIMITS
    + r"""
import re
from html.parser import HTMLParser

class Page(HTMLParser):
    silent = ("script", "style", "template", "noscript", "head")
    blocks = ("p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul", "ol", "blockquote")
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.depth = [], 0
    def handle_starttag(self, tag, attributes):
        self.depth += tag in self.silent
        if tag in self.blocks: self.parts.append("\n")
    def handle_endtag(self, tag):
        self.depth -= tag in self.silent and self.depth > 0
        if tag in self.blocks: self.parts.append("\n")
    def handle_data(self, data):
        if not self.depth: self.parts.append(re.sub(r"\s+", " ", data))

def pdf(path):
    from pypdf import PdfReader
    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is encrypted")
    return "\n\n".join(page.extract_text() for page in reader.pages)

def docx(path):
    import docx
    found = docx.Document(path)
    tables = ("\t".join(cell.text for cell in row.cells) for table in found.tables for row in table.rows)
    return "\n".join([*(paragraph.text for paragraph in found.paragraphs), *tables])

def html(path):
    page = Page()
    page.feed(open(path, encoding="utf-8").read())
    page.close()
    return "".join(page.parts)

for line in sys.stdin:
    path = json.loads(line)
    try:
        kind = path.rsplit(".", 1)[1].lower()
        text = {"pdf": pdf, "docx": docx, "html": html, "htm": html}[kind](path)
        text = re.sub(r"[ \t]*\n[ \t]*", "\n", text).replace("\x00", "")
        said = {"text": re.sub(r"\n{3,}", "\n\n", text).strip()}
        if not said["text"]:
            said = {"why": "it holds no text (a scan?)"}
    except BaseException as problem:
        said = {"why": f"{type(problem).__name__}: {problem}"[:300]}
    print(json.dumps(said), flush=True)
"""
)


def texts_of(files: Sequence[Path]) -> Iterator[tuple[str | None, str]]:
    """The text of each document, or None and why there is none.

    Args:
        files: PDF, DOCX or HTML files.

    Raises:
        DataError: an extractor is not installed.
    """
    for path in files:
        if module := NEEDS[path.suffix.lower()]:
            require_extra(module, f"{path}: reading {path.suffix} files", DataError)
    for answer in read_each(READER, files, SECONDS, MEMORY):
        yield answer.get("text"), answer.get("why", "")
