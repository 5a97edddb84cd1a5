"""A durable engine with the steps of the Azure Storage provider, on one shared SQLite file.

Source: Microsoft.Azure.DurableTask.AzureStorage. Several host processes may share a task hub.
"""
