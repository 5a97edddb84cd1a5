"""Commands for the author of a model: `python -m worker.tools.check` and others."""
