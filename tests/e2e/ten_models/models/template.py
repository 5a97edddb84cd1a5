"""A model that fills a template with its parameter."""

import jinja2


class Infer:
    """Returns the input text after Jinja has filled it as a template with the parameter `name`."""

    def __call__(self, text: str, *, name: str = "world") -> dict[str, str]:
        return {"text": jinja2.Template(text).render(name=name)}
