"""Fetch and decode inputs, and store large results.

The decoders expect untrusted bytes. A decoder raises InvalidInput, whose text is for the caller, if
it cannot decode the bytes.

    payloads    read large inputs from blob storage, and store large results (claim check)
    urls        fetch inputs from URLs
    images      decode images
    audio       decode WAV files
    tensors     decode arrays from .npy files and JSON
    text        decode text and JSON
"""
