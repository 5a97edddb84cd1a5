"""The benchmarks of the whole system, of its parts, and of other servers (`./dev bench`)."""
