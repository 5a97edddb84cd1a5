"""The triggers that run functions without a request to the host: queues and timers."""
