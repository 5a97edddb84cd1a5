"""Network: retries, calls to foreign servers, and the storage account's client."""
