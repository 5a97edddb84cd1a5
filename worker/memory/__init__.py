"""The device's memory: measured, reserved before it is used, and shared with other processes.

device      what a device can do: CUDA, or a budget on the CPU; which one there is
budget      the CPU as a card: an account that all processes of a device are charged on
cuda        a card
meter       what tensors a model holds, and what a batch of it needs on the CPU
profile     a model's measured sizes, remembered from one start to the next
board       small pages that processes share and that die with them
ledger      the board of reservations and of who waits for one
admission   who may load and who must yield: pure
seat        one model's place on the device, between admission and the ledger
allowance   what a loaded model's batches may cost, and what is learned about it
pending     whether a model that is not loaded has work: a look into its queue
"""
