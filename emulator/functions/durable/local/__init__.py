"""The default durable engine: one host, one transaction for each episode."""
