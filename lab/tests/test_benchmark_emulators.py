import pytest

from lab.benchmarks.emulators import BrokerFigure, main


def test_row_shows_rate_latency_and_processor() -> None:
    seconds = [0.001] * 94 + [0.011] * 6
    figure = BrokerFigure("send", 100_000, 1, seconds, 0.5, 0.04)
    assert figure.cells() == ["send", "100,000", "1", "200", "1.00", "11.00", "0.40"]


def test_unknown_processor_time_is_empty() -> None:
    assert BrokerFigure("receive", 0, 1, [0.001] * 10, 0.5, None).cells()[-1] == ""


@pytest.mark.parametrize("count", ["-1", "0", "15", "99"])
def test_fewer_than_100_messages_are_refused(
    count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--messages", count])
    assert ended.value.code == 2
    assert f"expected at least 100 messages, found {count}" in capsys.readouterr().err
