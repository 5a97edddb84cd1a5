"""What a job brings: its payload, from the message, from a blob or from a URL."""
