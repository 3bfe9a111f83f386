"""The command line: it teaches, it fails in one line, it says so by its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.command_line import until

if TYPE_CHECKING:
    from tests.command_line import CommandLine

COMMANDS = [
    (),
    ("run",),
    ("ingress",),
    ("worker",),
    ("tasks",),
    ("tasks", "list"),
    ("tasks", "show"),
    ("dead-letters",),
    ("dead-letters", "list"),
    ("dead-letters", "show"),
    ("dead-letters", "replay"),
    ("dead-letters", "discard"),
    ("topology",),
    ("topology", "apply"),
    ("topology", "check"),
    ("config",),
    ("config", "show"),
    ("config", "check"),
]
NOBODY = "amqp://guest:hush@127.0.0.1:1/"


def test_help_comes_at_once(cli: CommandLine) -> None:
    """Within half a second, so that it feels immediate.

    What is measured is the time on the processor, of which others on the same core
    take something, too: it is 0.2 s on a quiet machine, and 0.34 s were seen.
    """
    # Whoever measures coverage slows each process down: it is not to be seen here.
    environ = {k: v for k, v in cli._environ(None).items() if "COVERAGE" not in k}
    times = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "--help"],
            cwd=cli.folder,
            env=environ,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        times.append(usage.ru_utime + usage.ru_stime)

    assert min(times) < 0.45


def test_help_loads_nothing_that_is_slow_to_load(cli: CommandLine) -> None:
    """Whatever a command needs it loads when it runs."""
    program = "import sys; from pipeline.cli.main import app"
    program += "; app(['--help'], standalone_mode=False)"
    slow = "{'asyncio', 'rich', 'pydantic', 'aiohttp', 'structlog'} & {*sys.modules}"

    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(sorted({slow}))"],
        capture_output=True,
        check=True,
        cwd=cli.folder,
        env=cli._environ(None),
        text=True,
    )

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"], prog_name="pipeline")

    assert done.exit_code == 0
    assert f"Usage: {' '.join(('pipeline', *command))}" in done.stdout
    assert done.stderr == ""


def test_the_version_is_printed(cli: CommandLine) -> None:
    assert cli("--version").stdout.startswith("pipeline ")


def test_a_shell_gets_its_completion(cli: CommandLine) -> None:
    # Else typer looks for a shell among the parents, and there may be none.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = cli("--show-completion", "bash", environ=named)

    assert done.returncode == 0
    assert "_PIPELINE_COMPLETE=complete_bash" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("walk",), "No such command 'walk'"),
        (("run", "--fast"), "No such option: --fast"),
        (("worker", "compare"), "'compare' is not one of"),
        (("worker", "dedupe", "--subscription", "x"), "with notify only"),
        (("config", "show", "--set", "ingress.port"), "expected KEY=VALUE"),
        (("dead-letters", "list", "--older-than", "soon"), "expected a duration"),
        (("dead-letters", "replay", "--limit", "0"), "greater than or equal to 1"),
        (("dead-letters", "show"), "Missing argument"),
        (("tasks", "list", "--stage", "done"), "'done' is not one of"),
    ],
)
def test_wrong_usage_ends_with_code_2(arguments: tuple[str, ...], words: str) -> None:
    runner = CliRunner(env={"COLUMNS": "200"})

    done = runner.invoke(app, [*arguments], prog_name="pipeline")

    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "list", "--older-than"),
        ("dead-letters", "discard", "--newer-than"),
        ("ledger", "prune", "--older-than"),
        ("tasks", "list", "--since"),
        ("tasks", "list", "--until"),
        ("tasks", "show", "5c79be8e", "--follow", "--timeout"),
        ("submit", "--operation", "wav", "--timeout"),
        ("submit-batch", "tasks.csv", "--timeout"),
        ("simulate", "--span"),
    ],
    ids=" ".join,
)
def test_a_wrong_age_names_its_option(arguments: tuple[str, ...]) -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    *_, option = arguments
    age = "answer=5x" if option == "--span" else "5x"

    done = runner.invoke(app, [*arguments, age], prog_name="pipeline")

    assert 2 == done.exit_code
    assert f"Invalid value for {option}: expected a" in done.stderr
    assert "got '5x'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("dead-letters", "list", "--older-than", "1h", "--newer-than", "5m"),
            "for --older-than: expected an age below that of --newer-than, 5m, got 1h",
        ),
        (
            ("dead-letters", "replay", "--older-than", "60m", "--newer-than", "1h"),
            "for --older-than: expected an age below that of --newer-than, 1h, got 60m",
        ),
        (
            ("tasks", "list", "--since", "1h", "--until", "2h"),
            "for --since: expected a time before that of --until, 2h, got 1h",
        ),
        (
            ("tasks", "list", "--since", "2026-11-20", "--until", "2026-11-19T08:00Z"),
            "a time before that of --until, 2026-11-19T08:00Z, got 2026-11-20",
        ),
    ],
)
def test_a_range_that_can_hold_nothing_is_refused(
    arguments: tuple[str, ...], words: str
) -> None:
    """Where the two were mixed up, 0 would be taken for an answer."""
    runner = CliRunner(env={"COLUMNS": "200"})

    done = runner.invoke(app, [*arguments], prog_name="pipeline")

    assert 2 == done.exit_code
    assert words in done.stderr


def test_a_range_that_can_hold_something_is_looked_through(cli: CommandLine) -> None:
    cli("topology", "apply")

    done = cli("dead-letters", "list", "--older-than", "5m", "--newer-than", "1h")

    assert (0, "0 dead letters\n") == (done.returncode, done.stdout)


def test_an_unknown_queue_is_wrong_usage_too(cli: CommandLine) -> None:
    cli("topology", "apply")

    done = cli("dead-letters", "list", "--queue", "nope", environ={"COLUMNS": "200"})

    assert done.returncode == 2
    assert "expected one of dedupe, download, unrouted; got nope" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("topology", "check"), ("dead-letters", "replay", "--json")],
    ids=" ".join,
)
def test_a_broker_that_is_away_is_one_clear_line(
    cli: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = cli(*arguments, "--broker-url", NOBODY, "--set", "broker.deadline=500ms")

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "127.0.0.1:1" in done.stderr
    assert "hush" not in done.stderr


def test_wrong_settings_are_all_named_by_every_command(cli: CommandLine) -> None:
    environ = {"PIPELINE_INGRESS__PORT": "web", "PIPELINE_BROKER_ULR": "x"}

    done = cli("dead-letters", "list", "--set", "drain=1h", environ=environ)

    assert done.returncode == 1
    assert done.stdout == ""
    head, *lines = done.stderr.splitlines()
    assert head == "error: 3 settings are wrong:"
    assert [line.split()[0] for line in lines] == [
        "PIPELINE_BROKER_ULR",
        "drain",
        "ingress.port",
    ]


def test_config_check_ends_with_0_or_1(cli: CommandLine) -> None:
    good = cli("config", "check")
    bad = cli("config", "check", "--set", "drain=1h", "--set", "nope=1")
    as_json = cli("config", "check", "--set", "drain=1h", "--json")

    assert (good.returncode, good.stdout) == (0, "the settings are right\n")
    assert bad.returncode == 1
    assert len(bad.stderr.splitlines()) == 2
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout) == {
        "ok": False,
        "mistakes": [
            {"key": "drain", "origin": "flag", "text": "expected 25s or less, got '1h'"}
        ],
    }


def test_config_check_looks_at_the_list_of_subscriptions(cli: CommandLine) -> None:
    """What a worker would refuse to start with, together with other mistakes."""
    (cli.folder / "subs.toml").write_text(
        '[[subscriptions]]\nname = "Shop"\nurl = "shop"\nevents = ["task.done"]\n',
        encoding="utf-8",
    )
    listed = ("--set", "subscriptions_file=subs.toml")

    one = cli("config", "check", *listed)
    with_another = cli("config", "check", *listed, "--set", "drain=1h")
    missing = cli.environ | {"PIPELINE_SUBSCRIPTIONS_FILE": "none.toml"}
    none = cli("config", "check", environ=missing)

    assert (one.returncode, one.stdout) == (1, "")
    name, url = one.stderr.splitlines()
    where = "error: subscriptions_file (subs.toml): #0"
    assert name == f"{where}.name (Shop): expected text of the form ^[a-z0-9-]{{1,40}}$"
    assert url.startswith(f"{where}.url (Shop): expected an address such as https://")
    assert with_another.stderr.splitlines()[0].startswith("error: drain (flag)")
    assert with_another.stderr.splitlines()[1:] == [name, url]
    assert none.returncode == 1
    assert none.stderr == (
        "error: subscriptions_file (none.toml): expected a TOML file that can be read:"
        " No such file or directory\n"
    )


def test_config_check_looks_at_what_the_ingress_will_need(cli: CommandLine) -> None:
    """Files, operations, room for bodies, which the settings alone do not show."""
    missing = ("--set", "ingress.tls.certificate_file=missing.pem")
    tokens = 'ingress.operation_tokens={"genrate": ["sixteen-letters-1"]}'

    room = ("--set", "ingress.max_total_body_bytes=1MiB")

    checked = cli("config", "check", *missing, "--set", tokens, *room, "--json")

    assert 1 == checked.returncode
    found = {m["key"]: m["text"] for m in json.loads(checked.stdout)["mistakes"]}
    keys = {"tls", "operation_tokens", "max_total_body_bytes"}
    assert {f"ingress.{key}" for key in keys} == set(found)
    assert "at least 2097152 bytes" in found["ingress.max_total_body_bytes"]
    assert "missing.pem" in found["ingress.tls"]
    assert "got genrate" in found["ingress.operation_tokens"]
    assert "sixteen-letters-1" not in checked.stdout + checked.stderr


def test_config_show_says_where_each_value_comes_from(cli: CommandLine) -> None:
    (cli.folder / "pipeline.toml").write_text("drain = 3\n", encoding="utf-8")
    cli.environ["PIPELINE_BROKER_URL"] = "amqp://me:hush@broker/"
    cli.environ["PIPELINE_INGRESS__TOKENS"] = "a-secret-of-some-length"

    shown = cli.json("config", "show", "--set", "ingress.port=1234")
    text = cli("config", "show", "--set", "ingress.port=1234").stdout

    assert shown["drain"] == {"value": "3s", "origin": "pipeline.toml"}
    assert shown["ingress.port"] == {"value": 1234, "origin": "flag"}
    assert shown["log.level"] == {"value": "INFO", "origin": "default"}
    assert shown["broker_url"]["value"] == "amqp://me:***@broker/"
    assert shown["broker_url"]["origin"] == "PIPELINE_BROKER_URL"
    assert shown["ingress.tokens"]["value"] == "set"
    assert "port = 1234" in text
    assert "hush" not in text
    assert "a-secret" not in text


def test_output_that_is_no_terminal_has_no_colours(cli: CommandLine) -> None:
    done = cli("config", "show")

    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--help"), "in ./data/demo-"),
        (("demo", "--tasks", "1"), "callback complete"),
    ],
)
def test_a_terminal_that_lacks_letters_gets_all_the_others(
    cli: CommandLine, encoding: str, arguments: tuple[str, ...], words: str
) -> None:
    """Not every one knows UTF-8; help and the demo's lines have letters beyond it."""
    done = cli(*arguments, environ={"PYTHONIOENCODING": encoding})

    assert (0, "") == (done.returncode, done.stderr)
    assert words in done.stdout


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf8", "demo-…"), ("latin-1", "demo-?")]
)
def test_a_terminal_that_has_all_letters_gets_them(
    cli: CommandLine, encoding: str, expected: str
) -> None:
    environ = {"PYTHONIOENCODING": encoding, "COLUMNS": "500"}

    done = cli("run", "--help", environ=environ)

    assert f"of its own in ./data/{expected};" in done.stdout


def test_the_topology_is_made_and_compared(cli: CommandLine) -> None:
    cli("topology", "apply", "--set", "broker.prefix=other")

    before = cli("topology", "check")
    made = cli("topology", "apply")
    after = cli("topology", "check")

    assert before.returncode == 1
    assert "queue pipeline.v1.dedupe: expected it to exist" in before.stderr
    assert made.returncode == 0
    assert (after.returncode, after.stdout) == (
        0,
        "the broker has the whole topology\n",
    )


def test_a_wrong_broker_of_a_demo_is_blamed_on_the_option(cli: CommandLine) -> None:
    done = cli("demo", "--broker-url", "foo://")

    assert done.returncode == 1
    assert "broker_url (flag): expected a URL that starts with" in done.stderr


def test_nobody_is_told_of_a_file_called_none(cli: CommandLine) -> None:
    with cli.running("worker", "notify") as worker:
        until(lambda: worker.events("no_subscriptions"))
        worker.stop()

    for event in ("settings_loaded", "no_subscriptions"):
        assert worker.events(event)[0]["file"] is None


def test_an_unknown_subscription_is_one_clear_line(cli: CommandLine) -> None:
    done = cli("worker", "notify", "--subscription", "studio")

    assert done.returncode == 1
    assert "expected a subscription that there is (none), got 'studio'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_has_nobody_to_notify_waits_and_says_so(
    cli: CommandLine,
) -> None:
    with cli.running("worker", "notify") as worker:
        until(lambda: worker.events("no_subscriptions"))
        code = worker.stop()

    assert code == 0
    assert worker.events("roles_stopped")


def test_looking_for_tasks_makes_no_ledger(cli: CommandLine) -> None:
    """Who mistypes its address is told so, and leaves no empty file behind."""
    done = cli("tasks", "list", "--ledger-url", "sqlite:///mistyped.db")

    assert done.returncode == 1
    assert "expected a ledger that exists, found no file" in done.stderr
    assert not (cli.folder / "mistyped.db").exists()


def test_a_task_that_nobody_knows_is_a_failure(cli: CommandLine) -> None:
    with cli.running("worker", "dedupe") as worker:
        until(lambda: worker.events("roles_started"))
        worker.stop()

    done = cli("tasks", "show", "nobody")

    assert done.returncode == 1
    assert done.stderr == "error: the ledger has no task nobody\n"
    assert cli.json("tasks", "list") == []


@pytest.mark.parametrize("arguments", [("list",), ("discard", "--yes")])
def test_no_dead_letters_are_no_failure(
    cli: CommandLine, arguments: tuple[str, ...]
) -> None:
    cli("topology", "apply")

    done = cli("dead-letters", *arguments)

    assert done.returncode == 0
    assert done.stdout.startswith("0 dead letters")
