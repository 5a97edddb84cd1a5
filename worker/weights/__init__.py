"""Fetch a model's weights, check their digest, and load them without executing code."""
