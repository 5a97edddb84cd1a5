"""The OpenAI API, under /openai/v1, so that unmodified OpenAI clients can use the models."""
