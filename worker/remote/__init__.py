"""Calls to others: retries with backoff, who is away, whom we may call at all."""
