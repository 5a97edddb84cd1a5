"""The benchmarks of the whole system, of the worker and of memory admission (`./dev bench`)."""
