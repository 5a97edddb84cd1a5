"""A module that the app in the same folder imports."""

GREETING = "hello from next door"
