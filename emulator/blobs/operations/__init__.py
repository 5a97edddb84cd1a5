"""The operations of the Blob REST API.

Each operation is a function that receives a context and returns a response.
"""
