"""What operators see: the state of queues and workers, counts of jobs, and verdicts.

A verdict is a sentence about the state of the system, such as "No worker runs".

Instances of the Function App share no memory. Therefore each worker writes its heartbeat into a
small blob of its own. Each gateway process writes its minute sums, which are its counts of jobs in
each minute, into a small blob of its own. Every instance reads all these blobs.
"""
