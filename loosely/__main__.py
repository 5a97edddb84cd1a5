"""Run the command ``loosely`` as ``python -m loosely``."""

from loosely.cli import app

if __name__ == "__main__":
    app(prog_name="loosely")
