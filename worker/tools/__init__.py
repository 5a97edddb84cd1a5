"""Commands for the author of a model. The worker itself imports none of them.

check          `python -m worker.tools.check`: try one model on one input
check_load     measure a model as in a worker, while several callers have jobs in flight
describe       `python -m worker.tools.describe`: print what a model's class declares as TOML
lock_weights   `python -m worker.tools.lock_weights`: write the digests of weights
"""
