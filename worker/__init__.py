"""The worker: receive, decode, batch, infer, reply, settle. Run it by `python -m worker`.

The way of one job through the modules:

    servicebus   the only place that knows the Service Bus SDK, with together
    line         one of a model's two queues, for normal and for low priority
    receiver     one thread a queue: receives while there is room, settles what is finished
    consumer     one model's threads, and the steps in `jobs/` from message to settlement
    lease        one thread renews the locks of all that is held
    payloads     fetches inputs and stores results by claim check; pictures decodes
    batcher      gathers what waits for the device
    loading      loads the model with its weights, and knows why it could not
    weights      fetches them from blob storage by digest, and reads them as data only
    forms        the two forms of a model's class as one; runner calls it
    execution    runs a batch, and finds what in it is bad or too much
    memory       reserves the device's memory, which all its processes share
    residence    a model's stay in it: loaded, measured, unloaded for another
    outlets      delivers the reply to where the job asked for it; kept has it at hand till then
    leaving      whether this worker is to go, and why: a signal, a notice, a lost device
    service      composes the above, starts it and drains it
    errors       what can go wrong, and how each ends a message

`models/` holds one file a model: all that a model engineer writes.
"""
