"""Load a model, run it on batches, and unload it if other models need the memory."""
