"""Several models or processes on one device: memory is reserved before it is used.

sharing         the device of this process, and the thread that moves its reservations
reservation     one model's reservation, as its device thread and the sharing thread use it
admission       which model may load and which must make room: pure functions and states
lock_files      the reservations of all processes, in files that end with their process
queued_work     whether a model that is not loaded has messages in its queues
"""
