"""Load a model, run it on batches, and unload it if other models need the memory.

loaded_model     one interface for models that process single items or whole batches
declarations     read the parameters, named inputs and named results from a class's type hints
model_checks     check a model's class against its catalogue entry, before the model is called
model_manager    load a model when memory is free, and unload the model for other models
"""
