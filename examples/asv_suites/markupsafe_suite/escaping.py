"""Escape texts like those in templates: short and long, with and without characters to escape."""

from markupsafe import Markup, escape, escape_silent

TEXTS = {
    "short plain": "Hello World!",
    "short escaped": "<b>Hello</b>",
    "long plain": "Hello World!" * 1000,
    "long escaped": "<b>Hello & goodbye</b>" * 1000,
    "long, wide characters": "Привет, мир! <b>" * 1000,
}


class Escape:
    """What does escaping a text cost?"""

    params = sorted(TEXTS)
    param_names = ("text",)

    def setup(self, name: str) -> None:
        self.text = TEXTS[name]

    def time_escape(self, name: str) -> None:
        escape(self.text)


class Others:
    """What do the functions besides `escape` cost?"""

    def time_nothing(self) -> None:
        escape_silent(None)

    def time_format(self) -> None:
        Markup("<em>%s</em>") % "<Ann & Bob>"

    def time_join(self) -> None:
        Markup(", ").join(["<a>", Markup("<b>"), "c"])

    def time_striptags(self) -> None:
        Markup("<p>Main &raquo; <!-- a comment --> <em>About</em></p>").striptags()
