"""The catalogue entries of `openai_model`, one for each kind of result, and of an engine."""

import sys

from tests.e2e.system import ROOT

CATALOGUE = """
[embedder]
description = "Makes vectors of texts."
implementation = "tests.e2e.openai_model"
options = {makes = "vectors"}
media_types = ["application/json"]
openai = ["embeddings"]

[painter]
description = "Makes and turns pictures."
implementation = "tests.e2e.openai_model"
options = {makes = "image"}
media_types = ["application/json", "image/png"]
result_media_type = "image/png"
openai = ["images.generations", "images.edits"]

[listener]
description = "Writes how long a recording is."
implementation = "tests.e2e.openai_model"
options = {makes = "transcript"}
media_types = ["audio/wav"]
openai = ["audio.transcriptions"]

[speaker]
description = "Is silent for as long as a text would take."
implementation = "tests.e2e.openai_model"
options = {makes = "speech"}
media_types = ["application/json"]
result_media_type = "audio/wav"
openai = ["audio.speech"]

[talker]
description = "Repeats what it is told."
implementation = "tests.e2e.openai_talker"
media_types = ["application/json"]
result_media_type = "text/plain"
reports_progress = true
openai = ["chat.completions", "completions", "responses"]
"""

ENGINE = f"""
[engine]
description = "Answers with words that depend on the prompt."
implementation = "worker.models.engine"
media_types = ["application/json"]
reports_progress = true
max_concurrent_jobs = 32
openai = ["chat.completions", "completions", "responses", "embeddings"]
options = {{command = '{sys.executable} {ROOT}/tests/engine_server.py --port {{port}}'}}
"""
