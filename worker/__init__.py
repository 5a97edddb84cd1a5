"""The worker, which receives jobs, runs models and sends replies.

Start it with `python -m worker`.

__main__             creates all components, starts their threads, and drains the worker
processes/           the worker as processes, and what survives when one of them is killed
pipeline/            the processing of one job, one module for each step
servicebus/          receive, renew locks, settle, and send replies to queues
inference/           load a model's class, call it, and decide when the model is in memory
memory/              measure, limit and share the device's memory
inputs/              payloads, URLs, and decoders for images, sound, tensors and text
weights/             fetch, check and cache a model's weights; load them without running code
models/              one file for each model; a model's author writes only this file
replies              send replies to the gateway and to queues
telemetry/           metrics, traces, logs and health
blobs                read and write blobs in the storage account
retries              compute how long to wait before a retry
errors               all errors that end a job, and how the job's message is then settled
settings             read the worker's settings from the environment
heartbeats           publish the state of this worker as a small blob, which gateways read
tools/               `python -m worker.tools.check` and the other commands for the author of a model
"""
