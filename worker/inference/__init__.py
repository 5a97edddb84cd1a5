"""Load a model, run it on batches, and unload it if other models need the memory.

loaded_model     one interface for models that process single items or whole batches
model_manager    load a model when memory is free, and unload the model for other models
"""
