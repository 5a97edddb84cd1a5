"""The default durable engine, which serves one host and saves each episode in one transaction."""
