"""Benchmarks: `./dev bench` measures the whole system, the worker, or memory admission."""
