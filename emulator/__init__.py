"""Local replacements for Azure Service Bus, Azure Functions and Azure Blob Storage."""
