"""The worker as processes, and what survives when one of them is killed.

setup              set the thread counts and the memory allocator of this process
parent             run the worker in a child process, and replace a child that was killed
shutdown           request the shutdown of the worker, and wait for the request
scheduled_events   poll for Azure's announcements that this machine will be stopped
lock_journal       store lock tokens in a file, for the worker that replaces this worker
history            count how earlier deliveries of a message ended, also by the death of a worker
load_journal       note which models are being loaded, to find the load that killed a process
"""
