"""Write delivery notes: small blobs for job timelines, about deliveries that no reply describes.

They are written at both ends of a redelivery, when a message is returned or dead-lettered, when a
reply came after the deadline, and when the model raised an unexpected error. A note is written
without retries on a separate thread, so it may be missing.
"""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

from contract.deliveries import DeliveryNote, encode_note, note_blob
from contract.media import JSON
from worker.errors import Settlement
from worker.objects.port import BlobStore, ObjectsUnavailable
from worker.pipeline.receive import ReceivedJob
from worker.telemetry.recording import ServiceStatus

_log = logging.getLogger(__name__)

MAX_WAITING_COUNT = 1000
"""The largest number of notes that wait to be written. Further notes are dropped."""


class DeliveryNotes:
    """Writes this worker's notes about deliveries. Any thread may call the methods."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._status = ServiceStatus("blob storage for delivery notes")
        self._thread = ThreadPoolExecutor(1, "delivery-notes")
        self._lock = threading.Lock()
        self._waiting_count = 0
        self._last: Future[None] | None = None

    def note_so_far(self, job: ReceivedJob) -> None:
        """Write what is known of a delivery that has not ended, and its error if there is one."""
        self._note(job, DeliveryNote(job.attempt, job.marks(), traceback=job.traceback))

    def note_end(self, job: ReceivedJob, settlement: Settlement, code: str) -> None:
        """Write a note about how a delivery ended. `code` is `succeeded` or an error's code."""
        marks, age_ms = job.marks(), job.age_ms()
        note = DeliveryNote(job.attempt, marks, age_ms, settlement.value, code, job.traceback)
        self._note(job, note)

    def wait(self, seconds: float) -> None:
        """Wait until all delivery notes are written, but at most `seconds`."""
        if self._last is not None:
            wait([self._last], seconds)

    def _note(self, job: ReceivedJob, note: DeliveryNote) -> None:
        url = job.request.reply_url
        if url is None:
            return
        # The second note about a delivery replaces the first one.
        if job.note_blob is None:
            job.note_blob = note_blob(job.request.job_id, url, job.attempt)
        if job.note_blob is None:
            return
        with self._lock:
            if self._waiting_count >= MAX_WAITING_COUNT:
                return
            self._waiting_count += 1
            self._last = self._thread.submit(self._write, job.note_blob, encode_note(note))

    def _write(self, blob: str, data: bytes) -> None:
        try:
            self._store.write(blob, data, JSON)
        except (ObjectsUnavailable, OSError) as error:
            self._status.mark_down(str(error))
        except Exception:  # noqa: BLE001  this thread must go on
            _log.exception("a blob that describes a delivery could not be written")
        else:
            self._status.mark_up()
        finally:
            with self._lock:
                self._waiting_count -= 1
