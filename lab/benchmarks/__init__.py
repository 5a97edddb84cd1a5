"""Benchmarks of Loosely, of its components, and of other ways to serve models (`./dev bench`)."""
