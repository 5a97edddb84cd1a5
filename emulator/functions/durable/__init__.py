"""The Durable Task extension: engines on SQLite, the SDK's protocol and the management API.

The host uses `extension.DurableExtension`, which runs one of two engines. Both implement
`engine.DurableEngine`:

    local/           the default engine: one host, one transaction for each episode
    azure_storage/   the steps of the Azure Storage provider: queues, leases and injected faults

The nouns are those of the Durable Task Framework: an *instance* of an orchestration, its *history*
of events, an *episode* (one run of the orchestrator function over the history), a *work item* (an
activity that has to be run) and a *task hub* (the store that contains all of them).
"""
