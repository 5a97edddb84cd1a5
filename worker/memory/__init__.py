"""Measure how much device memory each model needs, limit it, and share the device."""
