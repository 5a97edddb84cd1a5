"""One server for each peer, written as the documentation of its framework recommends.

Each server is configured by three environment variables: `PEER_TASK` is the job (`noop` or
`resnet18`), `PEER_MODEL_PROCESSES` is a folder in which a process that holds a model leaves its
process id, and `PEER_REDIS` is the URL of the Redis server if the peer needs one.
"""
