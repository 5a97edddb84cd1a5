"""The operations of the OpenAI API as functions of JSON values, for its routes and for batches."""
