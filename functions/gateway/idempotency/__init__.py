"""One job for all requests under one Idempotency-Key."""
