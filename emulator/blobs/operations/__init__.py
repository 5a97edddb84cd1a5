"""The operations of the Blob REST API.

Each operation is a function that receives an `OperationContext` and returns a `BlobResponse`.
"""
