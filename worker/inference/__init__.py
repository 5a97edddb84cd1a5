"""Load a model, run it on batches, and unload it if other models need the memory.

loaded_model     one interface for models that process single items or whole batches
model_checks     check a model's class against its catalogue entry, before the model is called
encoding         encode what a model returns in its media types, and as bytes
model_manager    load a model when memory is free, and unload the model for other models
"""
