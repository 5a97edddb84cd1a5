"""The app process: loads a Function App folder and runs its functions for the host.

It is started as a script under a private package name, so that nothing of the host is importable
by the user's code. Hence these modules import each other relatively, and nothing but the
standard library and azure.functions besides.
"""
