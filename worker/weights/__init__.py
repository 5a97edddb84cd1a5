"""Fetch a model's weights, check their digest, cache them on disk, and load them as tensors.

Loading weights never executes code from the file.
"""
