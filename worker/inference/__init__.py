"""Inference: load a model's class, call it, and manage its time in memory.

loaded_model     a model's class behind one interface, in its short form or its full form
model_manager    load the model when there is memory, measure it, unload it for others
"""
