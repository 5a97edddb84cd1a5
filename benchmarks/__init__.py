"""The benchmarks (`./dev bench`): the whole system, the worker, and the sharing of memory."""
