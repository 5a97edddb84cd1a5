"""A module that `function_app.py` imports, to test imports from the app's own folder."""

GREETING = "hello from next door"
