"""The worker: receive, prepare, infer, reply, settle. Run it with `python -m worker`.

__main__             composes the parts, starts their threads, and drains them
pipeline/            one job's way, one module for each step
servicebus/          receive, renew locks, settle, and send replies to queues
inference/           a loaded model, and its time in memory
memory/              the device's memory: measured, limited, shared
inputs/              payloads, URLs, and decoders for images, sound, tensors and text
weights/             a model's weights: fetched, checked, cached, loaded as data only
models/              one file for each model: all that a model's author writes
replies              reply senders: the gateway, queues and webhooks
telemetry/           metrics, traces, logs and health
net/                 retries, and calls to foreign servers
errors               every way in which a job can fail, and how its message is settled
settings             the settings, from the environment
shutdown             whether and why the worker shuts down
scheduled_events     Azure's announcements that this machine will end
process              threads and memory allocator of this process
check                `python -m worker.check`: try one model on one input
"""
