"""The circuit: when publishing is worth a try, and who tries."""

from __future__ import annotations

from pipeline.spool.circuit import Circuit, CircuitState


def _opened(at: float = 0.0) -> Circuit:
    circuit = Circuit(threshold=3, first_pause_seconds=1, longest_pause_seconds=3)
    for _ in range(3):
        circuit.failed(at)
    return circuit


def test_few_failures_leave_it_closed() -> None:
    circuit = Circuit(threshold=3)

    circuit.failed(0)
    circuit.failed(0)

    assert circuit.is_closed
    assert circuit.may_probe(0)


def test_success_in_between_starts_the_count_again() -> None:
    circuit = Circuit(threshold=3)
    circuit.failed(0)
    circuit.failed(0)

    circuit.succeeded()
    circuit.failed(0)

    assert circuit.is_closed
    assert 1 == circuit.failures


def test_repeated_failures_open_it_for_a_pause() -> None:
    circuit = _opened(at=10)

    assert CircuitState.OPEN.value == circuit.state.value
    assert not circuit.may_probe(10.9)
    assert circuit.may_probe(11)
    assert CircuitState.HALF_OPEN.value == circuit.state.value


def test_only_one_probe_goes_at_a_time() -> None:
    circuit = _opened()

    assert circuit.may_probe(1)
    assert not circuit.may_probe(1.5)


def test_probe_of_which_nothing_is_heard_is_given_up() -> None:
    """It may have been cancelled; nobody would ever try again."""
    circuit = _opened()
    circuit.may_probe(1)

    assert not circuit.may_probe(3.9)
    assert circuit.may_probe(4)


def test_each_failed_probe_doubles_the_pause_up_to_a_limit() -> None:
    circuit = _opened()
    pauses = []

    now = 0.0
    for _ in range(4):
        pauses.append(circuit.probe_at - now)
        now = circuit.probe_at
        assert circuit.may_probe(now)
        circuit.failed(now)

    assert [1, 2, 3, 3] == pauses


def test_echoes_of_older_publishes_do_not_put_the_probe_off() -> None:
    circuit = _opened(at=0)

    circuit.failed(0.9)

    assert circuit.may_probe(1)


def test_probe_that_succeeds_closes_it_and_the_pause_is_short_again() -> None:
    circuit = _opened()
    circuit.may_probe(1)
    circuit.failed(1)
    circuit.may_probe(3)

    circuit.succeeded()

    assert circuit.is_closed
    for _ in range(3):
        circuit.failed(5)
    assert 6 == circuit.probe_at
