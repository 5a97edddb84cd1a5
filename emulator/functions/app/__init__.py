"""The app process: load a Function App folder and run its functions for the host.

The host starts `__main__.py` as a script. The script loads the other modules of this folder under a
private package name, so that the user's code cannot import the host. For this reason, these modules
import one another with relative imports. Apart from these, they import only the standard library
and azure.functions.
"""
