"""Benchmarks: `./dev bench` measures the whole system, the worker alone, or memory admission."""
