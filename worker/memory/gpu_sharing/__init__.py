"""Share one device between several models or processes.

Before a model is loaded, the worker reserves device memory for the model.

sharing         the device of this process, and the thread that updates the reservations
reservation     one model's reservation of device memory
admission       decide which models may be loaded and which models must be unloaded
lock_files      files that contain the reservations of all processes
queued_work     find out whether messages wait for a model that is not loaded
"""
