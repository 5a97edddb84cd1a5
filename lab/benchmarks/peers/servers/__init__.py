"""Servers with other frameworks, with which Loosely is compared (the peers).

Each server is written as the documentation of its framework recommends.

Four environment variables configure each server:

- `PEER_TASK` is the task: `tiny`, `noop` or `resnet18`.
- `PEER_MODEL_PROCESSES` is a folder. Each process that has loaded a model creates a file in this
  folder. The name of the file is the process id.
- `PEER_REDIS` is the URL of the Redis server, if the peer needs Redis.
- `PEER_RABBITMQ` is the URL of RabbitMQ, if it is the broker.
"""
