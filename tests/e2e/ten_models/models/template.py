"""Fills a template."""

import jinja2


class Infer:
    """Answers with the text, filled as a template of Jinja."""

    def __call__(self, text: str, *, name: str = "world") -> dict[str, str]:
        return {"text": jinja2.Template(text).render(name=name)}
