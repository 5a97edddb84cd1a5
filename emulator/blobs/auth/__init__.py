"""Who may do what: Shared Key and shared access signatures.

Anonymous requests are refused, as by an account that allows no public access. Bearer tokens and
user-delegation signatures need an identity provider and HTTPS, and are refused too.
"""

from emulator.blobs.auth.authenticator import Authenticator
from emulator.blobs.auth.grant import Grant, Permission

__all__ = ["Authenticator", "Grant", "Permission"]
