"""``python -m tests.soak``: faults for minutes to hours, then the verdict.

Exit code 0: all that is promised holds; 1: it does not.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import orjson

from pipeline.logs import configure_logs
from tests import postgres_node, rabbitmq_install
from tests.server_package import ServerMissing
from tests.soak.options import parse
from tests.soak.report import render
from tests.soak.soak import DoesNotWork, Soak


def main() -> int:
    """Run a soak as the command line asks; return the exit code."""
    options = parse()
    # What the soak's own look at the broker has to say during a restart is no news.
    configure_logs(level="CRITICAL", stream=sys.stderr)
    # Whoever ends it may do so as Ctrl-C would: what it has started is stopped, too.
    # Shells let what runs in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if options.broker == "rabbitmq":
        rabbitmq_install.install_server()
    if options.ledger == "postgres":
        postgres_node.install_server()
    try:
        result = asyncio.run(Soak(options).run())
    except (ServerMissing, DoesNotWork) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped by an interrupt, so there is no verdict\n")
        return 1
    if options.as_json:
        written = orjson.dumps(result.as_dict(), option=orjson.OPT_INDENT_2)
        sys.stdout.write(f"{written.decode()}\n")
    else:
        sys.stdout.write(render(result))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
