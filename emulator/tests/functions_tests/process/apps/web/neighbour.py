"""A module that `function_app.py` in the same folder imports, to test such imports."""

GREETING = "hello from next door"
