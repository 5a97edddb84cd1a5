"""Measure how much device memory each model needs, and limit how much each model uses.

device              the interface of a device, and the CUDA device
simulated_device    a memory limit on the CPU, to test without a GPU how models share memory
device_errors       find out from an error whether the device is out of memory or lost
profile             store the measured memory of models for the next start
limits              limit the batches of a loaded model so that they fit into memory
gpu_sharing         share one device between several models or processes
"""
