"""The device's memory: measured, and limited for each model.

device              the interface of a device, and a CUDA card
simulated_device    a memory budget on the CPU, to test sharing without a GPU
device_errors       what an error means for the device
profile             the measured sizes of models, stored from one start to the next
limits              what the batches of a loaded model may take
gpu_sharing         several models or processes on one device
"""
