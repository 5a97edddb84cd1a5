"""The worker as processes, and what survives when one of them is killed."""
