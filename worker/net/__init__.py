"""Network: retries, HTTP requests to servers outside our system, and the blob storage client."""
