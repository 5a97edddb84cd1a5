"""Send messages to the broker, count them, and take its dead letters, with an adapter for each."""
