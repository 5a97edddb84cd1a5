"""The steps that process one job in the worker. Each step has a module of its own.

    consumer   run the threads of one model, and call the steps in their order
    receive    decide how many messages to receive; turn a message into a job
    prepare    check that the job is still wanted; read, decode and preprocess its input
    infer      gather jobs into batches and run the batches through the model
    reply      store a large result, send the reply, and settle the message by the outcome
    deliveries write notes about messages that are delivered again or returned to their queue
    progress   for long-running models: report the progress of jobs, and stop cancelled jobs

`consumer` calls the steps; no step calls another step.
"""
