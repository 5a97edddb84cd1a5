"""A model whose input is a template, which the model fills in with a parameter."""

import jinja2


class Infer:
    """Renders the input text as a Jinja template with the variable `name`, a parameter."""

    def __call__(self, text: str, *, name: str = "world") -> dict[str, str]:
        return {"text": jinja2.Template(text).render(name=name)}
