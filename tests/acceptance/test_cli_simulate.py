"""The simulated provider, as its users start it: alone, and with everything."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.command_line import until

if TYPE_CHECKING:
    from tests.command_line import CommandLine, Running

NOBODY = "http://127.0.0.1:9/callbacks/{operation}"
FAST = ("--tasks", "1", "--time-scale", "100000")


def test_provider_whom_nobody_answers_fails(cli: CommandLine) -> None:
    """A wrong address is said, and not only to be found among figures."""
    done = cli("simulate", NOBODY, "--no-stay", *FAST)

    assert 1 == done.returncode
    assert f"expected 200 from {NOBODY}" in done.stderr


def test_provider_posts_to_an_ingress_and_reports(cli: CommandLine) -> None:
    """Every task ends at the address, under its own operation."""
    with cli.running("ingress", "--port", "0") as ingress:
        url = f"{ingress.address()}/callbacks/{{operation}}"

        report = cli.json("simulate", url, "--tasks", "3", "--time-scale", "1000")

        assert report["callbacks_accepted"] >= 3
        assert 0 == ingress.stop()


def test_provider_plays_every_operation_that_is_asked_for(cli: CommandLine) -> None:
    with cli.running("ingress", "--port", "0") as ingress:
        url = f"{ingress.address()}/callbacks/{{operation}}"
        wanted = ("-o", "lyrics", "-o", "midi", "--share", "failures=1")

        report = cli.json("simulate", url, "--tasks", "4", *wanted, *FAST[2:])
        with urllib.request.urlopen(f"{ingress.address()}/metrics") as answer:
            metrics = answer.read().decode()

    counted = r'^pipeline_callbacks_total\{operation="([^"]+)",.* [1-9]'
    taken = re.findall(counted, metrics, re.MULTILINE)
    assert (4, 0) == (report["tasks"], report["files"])
    assert {"lyrics", "midi"} == {*taken}


def test_provider_says_of_callbacks_that_reach_nobody_that_they_failed(
    cli: CommandLine,
) -> None:
    """Nobody is called, so it may be any address."""
    done = cli("simulate", NOBODY, "--share", "unreachable=1", "--no-stay", *FAST)

    assert 1 == done.returncode
    assert "attempt 4 → unreachable, as it was told to be" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tasks", "3"], "expected a URL with it"),
        (["--json"], "expected a URL with it"),
        (["--webhook-key", "k"], "sunoapi-org signs nothing"),
        (["--share", "losses"], "expected NAME=VALUE with one of losses, unreachable"),
        (["--share", "loss=0.3"], "got loss=0.3"),
        (["--share", "losses=2"], "losses: expected a share from 0 to 1, got 2.0"),
        (["--share", "duplicates=1"], "expected a share from 0 to 0.9"),
        (["--share", "losses=few"], "losses: expected a number that fits, got 'few'"),
        (["--span", "links=soon"], "expected a duration"),
        (["--span", "links=1m,2m"], "links: expected one duration, got 2"),
        (["--limit", "credits=0"], "credits: expected"),
        ([NOBODY, "-o", "opera"], "expected all, or some of upload-extend"),
    ],
)
def test_wrong_usage_of_the_provider_is_said(
    arguments: list[str], expected: str
) -> None:
    done = CliRunner().invoke(app, ["simulate", *arguments])

    assert 2 == done.exit_code
    assert expected in joined(done.stderr)


def test_provider_stays_for_its_files_until_ctrl_c(cli: CommandLine) -> None:
    """Links have to work when a pipeline fetches them later."""
    with cli.running("ingress", "--port", "0") as ingress:
        url = f"{ingress.address()}/callbacks/{{operation}}"
        with cli.running("simulate", url, *FAST) as provider:
            until(lambda: "the files stay until Ctrl-C" in printed(provider))

            assert provider.process.poll() is None
            assert 0 == provider.stop(signal.SIGINT)


def test_demo_tells_what_happens_and_what_came_of_it(cli: CommandLine) -> None:
    """Without --json it is for people: a line for each event, then the figures."""
    done = cli("demo", "--tasks", "2", "--seed", "1")

    assert 0 == done.returncode, done.stderr
    assert "task.complete → studio 200" in done.stdout
    assert re.search(r"^lost +0$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "command", ["demo --tasks 2", "run --simulate --port 0", "simulate {url}"]
)
def test_what_is_shown_stops_with_its_reader(cli: CommandLine, command: str) -> None:
    """As ``| head`` does: no line about the pipe, least of all sixty."""
    with cli.running("ingress", "--port", "0") as ingress:
        url = f"{ingress.address()}/callbacks/{{operation}}"
        reader, writer = os.pipe()
        arguments = command.format(url=url).split()
        with (
            os.fdopen(reader, encoding="utf-8") as shown,
            cli.running(*arguments, output=writer) as running,
        ):
            os.close(writer)
            first = shown.readline()
            shown.close()
            code = running.process.wait(60)

    assert re.match(r" +\d+\.\d\ds ", first)
    assert (1, "") == (code, running.errors.read_text(encoding="utf-8"))


def test_everything_runs_with_the_provider_and_its_suggestions_work(
    cli: CommandLine,
) -> None:
    """What it says to type next shows the dead letters and replays them."""
    with cli.running("run", "--simulate", "--port", "0") as everything:
        until(
            lambda: (
                "Stop with Ctrl-C." in printed(everything)
                or everything.process.poll() is not None
            ),
            within=60,
        )
        commands = re.findall(
            r"^ +\S*pipeline (\S+ \S+ --config .*)$", printed(everything), re.MULTILINE
        )

        letters, replay, tasks = (shlex.split(command) for command in commands)
        waiting = cli.json(*letters)
        assert {"notify.studio"} == {letter["queue"] for letter in waiting}
        done = cli(*replay)
        assert 0 == done.returncode, done.stderr
        until(lambda: not cli.json(*letters))
        assert 6 == len(cli.json(*tasks))
        assert 0 == everything.stop(), everything.errors.read_text(encoding="utf-8")


@pytest.mark.parametrize("others", [(), ("data/demo-of-yesterday",)])
def test_a_simulation_that_does_not_start_leaves_no_folder(
    cli: CommandLine, others: tuple[str, ...]
) -> None:
    for name in others:
        (cli.folder / name).mkdir(parents=True)
    before = [*cli.folder.rglob("*")]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = cli("run", "--simulate", "--port", port)

    assert 1 == done.returncode
    assert "it is taken: set another port" in done.stderr
    assert before == [*cli.folder.rglob("*")]


def printed(running: Running) -> str:
    return running.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--broker-url", "amqp://guest:guest@127.0.0.1:1/"),
        ("--ledger-url", "sqlite:///ledger.db"),
        ("--config", "pipeline.toml"),
        ("--set", "ingress.port=1"),
        ("--host", "127.0.0.2"),
    ],
)
def test_options_that_a_simulation_does_not_heed_are_refused(
    cli: CommandLine, option: str, value: str
) -> None:
    """Rather than playing on another broker than the one that was asked for."""
    done = cli("run", "--simulate", "--port", "0", option, value)

    assert 2 == done.returncode
    assert f"expected no settings with it, got {option}: " in joined(done.stderr)
    assert "`pipeline demo --broker-url URL`" in joined(done.stderr)
    assert [] == [*cli.folder.iterdir()]


@pytest.mark.parametrize("name", ["PIPELINE_BROKER_URL", "PIPELINE_CONFIG"])
def test_variables_that_a_simulation_does_not_heed_are_refused(
    cli: CommandLine, name: str
) -> None:
    done = cli("run", "--simulate", "--port", "0", environ={name: "sqlite:///b.db"})

    assert 2 == done.returncode
    assert f"expected no settings with it, got {name}: " in joined(done.stderr)


def joined(text: str) -> str:
    """Give a text without the ends of its lines."""
    return " ".join(text.split())
