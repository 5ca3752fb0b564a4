"""Reading a page the way a strict browser would."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks balance while parsing and keeps what tests ask about.

    Attributes:
        ids: Every id, in order.
        references: Values of src and href.
        figures: Of each figure, whether it has a caption.
        tags: Every tag, in order.
        words: All text outside style.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.figures: list[bool] = []
        self.tags: list[str] = []
        self.words = ""
        self._captioned: list[bool] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figure":
            self._captioned.append(False)
        if tag == "figcaption":
            self._captioned[-1] = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "figure":
            self.figures.append(self._captioned.pop())

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), "an event handler is a script"
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "srcset", "action", "data"):
                self.references.append(value or "")
