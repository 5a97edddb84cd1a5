"""The device's memory: measure how much each model needs, and limit how much each model uses.

device              the interface of a device, and the CUDA device
simulated_device    a memory budget on the CPU, to test sharing without a GPU
device_errors       decide from an error whether the device is out of memory or lost
profile             store the measured memory of models for the next start
limits              limit the size of a loaded model's batches
gpu_sharing         share one device between several models or processes
"""
