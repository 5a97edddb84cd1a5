"""What operators see: queues, workers, counts of jobs, and a verdict in words.

Instances of the Function App share no memory. Therefore workers write heartbeats, and gateways
minute sums, into small blobs, and every instance reads all of them.
"""
