"""Inference: load a model's class, call it, and decide when it is in memory.

loaded_model     one interface for a loaded model, whose class has the short or the full form
model_manager    load the model when memory is free, measure it, and unload it for other models
"""
