"""The Durable Task extension: engines on SQLite, the SDK's protocol and the management API.

`extension.DurableExtension` is what the host uses. It has one of two engines, both a
`engine.DurableEngine`:

    local/           the default: one host, one transaction for each episode
    azure_storage/   the order of the Azure Storage provider, with queues, leases and faults

The nouns are those of the Durable Task Framework: an *instance* of an orchestration, its *history*
of events, an *episode* (one run of the orchestrator function over the history), a *work item* (an
activity to run), a *task hub* (all of these in one store).
"""
