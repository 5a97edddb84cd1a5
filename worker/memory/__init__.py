"""Measure how much device memory each model needs, and limit how much each model uses.

device              the interface of a device, and the CUDA device
simulated_device    a memory limit on the CPU, to test without a GPU how models share memory
device_errors       find out from an error whether the device is out of memory or lost
profile             store the measured memory of models for the next start
limits              limit the batches of a loaded model so that they fit into memory
sharing             the device of this process, and the thread that updates the reservations
reservation         one model's reservation of device memory
admission           decide which models may be loaded and which models must be unloaded
lock_files          files that contain the reservations of all processes
queued_work         find out whether messages wait for a model that is not loaded
"""
