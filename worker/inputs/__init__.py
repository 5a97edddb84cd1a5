"""Inputs and results: payloads in blob storage, inputs from URLs, and decoders.

Every decoder takes bytes from foreign callers, and raises InvalidInput with a text for the caller.

    payloads    large inputs and results in blob storage (claim check)
    urls        inputs that the worker fetches from a URL
    images, audio, tensors, text
"""
