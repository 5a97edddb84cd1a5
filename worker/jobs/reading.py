"""A job's input, decoded and preprocessed: an item for a batch."""

from contract.catalogue import Model
from contract.messages import PayloadUrl
from worker.errors import HandedBack
from worker.inference.residence import Residence
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import Payloads
from worker.jobs.patience import Patience
from worker.messages.job import Job

# While blob storage is away jobs whose inputs are elsewhere can run: this one gives its place up.
_PATIENCE_SECONDS = 20.0


class Reading:
    """Reads the inputs of one model's jobs, wherever they are."""

    def __init__(
        self,
        model: Model,
        payloads: Payloads,
        fetcher: Fetcher,
        residence: Residence,
        patience: Patience,
    ) -> None:
        self._model = model
        self._payloads = payloads
        self._fetcher = fetcher
        self._residence = residence
        self._patience = patience

    def read(self, job: Job) -> None:
        """Set the job's item; whatever the input, its source or the model's code raises."""
        given, runner = job.request.input, self._residence.runner
        parameters = job.request.parameters
        if runner is None:
            raise HandedBack("the model was unloaded")
        wait = self._patience.waits(job, _PATIENCE_SECONDS)
        if isinstance(given, PayloadUrl):
            job.item = runner.prepare(*self._fetcher.fetch(given, self._model), parameters)
        elif runner.reads_files:
            file = self._payloads.open(given, self._model, wait)
            job.item = runner.prepare_file(file, given.media_type, parameters)
        else:
            data = self._payloads.fetch(given, self._model, wait)
            job.item = runner.prepare(data, given.media_type, parameters)
        job.cost = runner.cost(job.item)
