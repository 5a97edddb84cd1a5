"""The gateway: the REST API, the orchestration of one job, its activity and its replies.

`api` is the HTTP surface, `orchestrator` the life of one job, `activities` its side effects.
`durable`, `payloads` and `queues` are the three services behind it, each behind a small port.
"""
