"""The app process: load a Function App folder and run its functions for the host.

The host starts `__main__.py` as a script. The script loads the other modules of this folder under a
private package name. Therefore the user's code cannot import the host.

The other modules import only modules of this folder (with relative imports), the standard library
and azure.functions.
"""
