from pathlib import Path

from gateway import problems

PAGE = (Path(__file__).parents[3] / "docs/reference/problems.md").read_text(encoding="utf-8")


def test_document_has_a_row_for_each_problem() -> None:
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.ProblemKind)]
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{kind.code}` | {kind.status} | {'yes' if kind.retryable else 'no'} "
        f"| {kind.title}. {kind.advice} |"
        for kind in kinds
    ]
