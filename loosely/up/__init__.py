"""``loosely up``: the whole system on one machine, each part a process, kept alive."""
