"""What happens to a job, from its message to its settlement: one module a step."""
