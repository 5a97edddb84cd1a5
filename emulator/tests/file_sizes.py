"""Make writes to files fail, as on a full disk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_space(limit_bytes: int) -> Iterator[None]:
    """During the `with` block, let each write fail that would make a file exceed `limit_bytes`.

    The error is "File too large" instead of "No space left on device", because the operating system
    limits the size of the files of this process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
