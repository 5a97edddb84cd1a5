"""Implement `loosely up`: run the whole system on one machine, each component in its own process.

`run` is the entry point, and `parts` the table of the components. `supervisor` starts and stops
all, `process_manager` keeps one running, and `worker_pool` adjusts the number of workers.
`launcher`, `child` and `reaper` start processes, and kill them if `loosely up` dies.
"""
