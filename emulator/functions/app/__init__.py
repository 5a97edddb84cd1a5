"""The app process: load a Function App folder and run its functions for the host.

The host starts `__main__.py` as a script and the modules are loaded under a private package name,
so that the user's code cannot import the host. For this reason these modules import one another
relatively, and otherwise only the standard library and azure.functions.
"""
