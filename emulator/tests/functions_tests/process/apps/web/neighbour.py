"""A module beside the app."""

GREETING = "hello from next door"
