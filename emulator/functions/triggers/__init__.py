"""Triggers that fire functions by themselves: Service Bus queues and timers."""
