"""The operations of the Blob REST API, each a function from a context to a response."""
