"""The way of one job through the worker, one module for each step.

    consumer   the threads of one model, and the steps in their order
    receive    decide how many messages to take; turn a message into a job
    prepare    check that the job is still wanted; read, decode and preprocess its input
    infer      gather jobs into batches and run them through the model
    reply      postprocess, store a large result, send the reply
    settle     end the message by its outcome: complete, abandon, release or dead-letter
    progress   for models that run long: report how far a job is, and stop cancelled jobs

`consumer` calls the steps; no step calls another.
"""
