"""``python -m loosely.cli`` is ``loosely``."""

from loosely.cli import app

if __name__ == "__main__":
    app(prog_name="loosely")
