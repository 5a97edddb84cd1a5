"""Inputs and results: payloads in blob storage, inputs from URLs, and decoders.

Every decoder gets untrusted bytes. If it cannot decode them, it raises InvalidInput with a text for
the caller.

    payloads    read large inputs from blob storage, and store large results (claim check)
    urls        fetch inputs from URLs
    images      decode images
    audio       decode WAV files
    tensors     decode arrays from .npy files and JSON
    text        decode text and JSON
"""
