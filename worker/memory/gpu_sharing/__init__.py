"""Share one device between several models or processes: memory is reserved before it is used.

sharing         the device of this process, and the thread that updates its reservations
reservation     one model's reservation of device memory
admission       decide which model may be loaded and which must be unloaded, without side effects
lock_files      files with the reservations of all processes, which are removed with their process
queued_work     find out whether a model that is not loaded has messages in its queues
"""
