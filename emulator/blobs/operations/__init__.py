"""The operations of the Blob REST API, one function each: from a request to a response."""
