"""Test the model folder of `loosely new --example chat`, with what its tutorial installs.

The packages are installed into `.venv-openai/chat`, which later runs use again. A .pth file adds
the packages of this interpreter, because an installation of torch takes minutes.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[3]
INSTALLED = ROOT / ".venv-openai" / "chat"
TUTORIAL = ROOT / "docs" / "tutorials" / "first-chat.md"


def main(_arguments: list[str]) -> int:
    """Run the commands of the tutorial, and the folder's own tests. Return the exit status."""
    if not (INSTALLED / "bin" / "python").exists():
        venv.create(INSTALLED, with_pip=True)
    paths = {"base": str(INSTALLED), "platbase": str(INSTALLED)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    others = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (packages / "others.pth").write_text(others, encoding="utf-8")
    tutorial = TUTORIAL.read_text(encoding="utf-8")
    install, use, *_ = re.findall(r"^```sh\n(.*?)^```", tutorial, re.DOTALL | re.MULTILINE)
    assert "\nloosely up\n" in install
    script = "\n".join(
        [
            'loosely() { python -m loosely "$@"; }',
            install.replace("\nloosely up\n", "\nexport HF_HUB_OFFLINE=1\n"),
            *[line for line in use.splitlines() if line.startswith("loosely models check")],
            "loosely models check embeddings examples/sentences.json >/dev/null",
            "loosely test -- -p no:schemathesis",
        ]
    )
    path = f"{INSTALLED / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="loosely-chat-") as folder:
        command = ["sh", "-ex", "-c", script]
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
