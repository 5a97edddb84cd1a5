"""What `loosely up` does: run the whole system on one machine, each part as a process.

- `run`: the entry point. Locks the data directory, checks the ports, and supervises the parts.
- `parts`: the table of Loosely's parts: commands, ports and settings.
- `supervisor`: all parts together: started at once, stopped in order.
- `process_manager`: one part: started, probed, restarted when it dies, stopped.
- `worker_pool`: workers whose number follows the queues (`--scale`).
- `launcher`, `child`, `reaper`: start a process so that it cannot outlive `loosely up`.
- `data_directory`, `logs`, `ports`, `environment`: what the parts share.
- `events`, `console`, `errors`: what the user sees.
"""
