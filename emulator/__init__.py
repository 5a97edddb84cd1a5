"""Azure Service Bus, Azure Functions and Azure Blob Storage as programs on one machine."""
