"""Implement `loosely up`: run the whole system on one machine, each component in its own process.

- `run`: the entry point. Locks the data directory, checks the ports, and supervises the components.
- `parts`: the table of Loosely's components: their commands, ports and settings.
- `supervisor`: starts all components at the same time, and stops them in order.
- `process_manager`: starts, probes, restarts and stops one component.
- `worker_pool`: adjusts the number of workers to the lengths of the queues (`--scale`).
- `launcher`, `child`, `reaper`: start processes, and kill them if `loosely up` dies.
- `data_directory`, `logs`, `ports`, `environment`: files and settings that all components share.
- `events`, `console`, `errors`: what the user sees.
"""
