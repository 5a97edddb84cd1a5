"""What operators see: queues, workers, counts of jobs, and a verdict in words.

Instances of the Function App share no memory. Therefore each worker writes its heartbeat into a
small blob of its own, and each gateway process writes its minute sums into a small blob of its own.
Every instance reads all these blobs.
"""
