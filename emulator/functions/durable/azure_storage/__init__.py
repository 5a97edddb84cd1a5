"""A durable engine that follows the steps of the Azure Storage provider.

The task hub is one SQLite file, which several host processes may share.

Source: Microsoft.Azure.DurableTask.AzureStorage.
"""
