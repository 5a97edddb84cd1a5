"""Make writes to files fail, as on a full disk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_space(limit_bytes: int) -> Iterator[None]:
    """Limit the size of each file to `limit_bytes` during the `with` block.

    A write of this process that would exceed the limit fails with "File too large". On a full disk,
    the error would be "No space left on device".
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
