"""The triggers that run functions when a queue receives a message or a timer is due."""
