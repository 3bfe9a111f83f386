"""The callback address as the provider meets it: public, safe, open, and quick.

Tried from this machine: a firewall may let us in and not the provider, or the other
way round. The provider's page of troubles is a list of these.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from pipeline.assets.guard import is_public
from pipeline.bootstrap import callback_address_of
from pipeline.doctor import reach
from pipeline.doctor.clocks import judge_clock
from pipeline.doctor.finding import Finding, ok, problem, warning
from pipeline.settings.polling import is_polling, is_polling_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.doctor.reach import Answer
    from pipeline.settings import Settings

CALLBACK: Final = "callback"
OPERATION: Final = "upload-extend"
#: Certificates are renewed weeks before their end, if they are.
EXPIRES_SOON: Final = timedelta(days=21)
#: An answer takes milliseconds; one of the provider's pages grants ten seconds.
SLOW_SECONDS: Final = 3.0
_REDIRECT: Final = range(300, 400)
_NO_TOKEN: Final = "no-token-of-this-ingress"  # noqa: S105  it is none

_WHY: Final = (
    "callbacks do not arrive; after its last try the provider gives up for good"
)


class _Closed(Exception):
    """Nobody gets further than this."""

    def __init__(self, what: str, *, todo: str) -> None:
        super().__init__(what)
        self.finding = problem(CALLBACK, what, why=_WHY, todo=todo)


async def look_at_address(settings: Settings) -> Sequence[Finding]:
    """Go the provider's way to the callback address, and post what is no callback.

    Raises:
        ConfigurationError: there is no token for the operation that is tried.
    """
    base = settings.provider.callback_url
    if base is None:
        text = "not tried: provider.callback_url, its public address, is not set"
        return [ok(CALLBACK, text)]
    url = URL(str(base))
    if is_polling_alone(settings):
        return [_judge_nowhere(settings)]
    # A simulated provider on this machine needs neither TLS nor a public address.
    judge = warning if settings.submit.allow_private_addresses else problem
    findings = [*_judge_scheme(url, judge)]
    try:
        findings += await _look_at_name(url, judge)
        if url.scheme == "https":
            findings += await _look_at_certificate(url)
        findings += await _look_at_answers(settings)
    except _Closed as closed:
        findings.append(closed.finding)
    return findings


def _judge_nowhere(settings: Settings) -> Finding:
    if is_polling(settings):
        return ok(CALLBACK, "leads nowhere on purpose: results come by polling")
    return problem(
        CALLBACK,
        "provider.callback_url leads nowhere, and nobody polls",
        why="no result arrives in any way",
        todo="set the public address of the ingress, or provider.api_key to poll",
    )


def _judge_scheme(url: URL, judge: Callable[..., Finding]) -> Iterator[Finding]:
    if url.scheme != "https":
        yield judge(
            CALLBACK,
            f"expected an address with https, got {url.scheme}",
            why="the token in the address can be read on the way, and whoever has it"
            " can post callbacks",
            todo="put TLS before the ingress, or into it (ingress.tls), and correct"
            " provider.callback_url",
        )


async def _look_at_name(url: URL, judge: Callable[..., Finding]) -> Sequence[Finding]:
    try:
        addresses = await reach.resolve(url)
    except (OSError, UnicodeError) as error:
        raise _Closed(
            f"no address for the name {url.host}: {_text(error)}",
            todo="correct provider.callback_url, or the name's entry in the DNS",
        ) from error
    private = [address for address in addresses if not is_public(address)]
    if not private:
        return []
    return [
        judge(
            CALLBACK,
            f"expected a public address, got {', '.join(private)} for {url.host}",
            why="the provider cannot reach it: this is the commonest cause of callbacks"
            " that do not come",
            todo="use a public name or a tunnel; only a simulated provider can do"
            " without",
        )
    ]


async def _look_at_certificate(url: URL) -> Sequence[Finding]:
    try:
        certificate = await reach.look_at_certificate(url)
    except ssl.SSLCertVerificationError as error:
        raise _Closed(
            f"no certificate that can be trusted: {error.verify_message}",
            todo="renew it, and serve the whole chain for the name in"
            " provider.callback_url",
        ) from error
    except OSError as error:
        raise _unreachable(error) from error
    left = certificate.not_after - datetime.now(UTC)
    if left > EXPIRES_SOON:
        return []
    return [
        warning(
            CALLBACK,
            f"the certificate ends in {left.days} days",
            why="callbacks stop at that moment",
            todo="renew it, and see why that has not happened by itself",
        )
    ]


async def _look_at_answers(settings: Settings) -> Sequence[Finding]:
    address = callback_address_of(settings, OPERATION)
    signature = settings.ingress.signature
    try:
        answer = await reach.post_probe(address, signature)
    except (aiohttp.ClientError, OSError) as error:
        raise _unreachable(error) from error
    findings = [*_judge_answer(answer, settings)]
    if answer.clocks is not None:
        findings.append(judge_clock("the ingress", *answer.clocks, settings))
    if not answer.is_ours:
        return findings
    findings.insert(
        0,
        ok(
            CALLBACK,
            f"answered 200 within {answer.seconds:.2f} s, asked from this machine"
            f" {_proof(settings)}",
        ),
    )
    with suppress(aiohttp.ClientError, OSError):
        if settings.ingress.tokens or settings.ingress.operation_tokens:
            other = address.rpartition("/")[0] + f"/{_NO_TOKEN}"
            findings += _judge_stranger(
                await reach.post_probe(other, signature), "a token that is wrong"
            )
        if signature.keys:
            findings += _judge_stranger(
                await reach.post_probe(address, None), "no signature"
            )
    return findings


def _proof(settings: Settings) -> str:
    """Say what was shown that the ingress has taken."""
    ingress = settings.ingress
    shown = []
    if ingress.tokens or ingress.operation_tokens:
        shown.append("token")
    if ingress.signature.keys:
        shown.append("signature")
    return f"with our {' and '.join(shown)}" if shown else "without token or signature"


def _judge_answer(answer: Answer, settings: Settings) -> Iterator[Finding]:
    if answer.seconds > SLOW_SECONDS:
        yield warning(
            CALLBACK,
            f"the answer took {answer.seconds:.1f} s",
            why=f"the provider waits {reach.PROVIDER_SECONDS:g} s, on one of its pages"
            " 10 s, and then counts the try as failed",
            todo="look at the proxy before the ingress, and at the ingress' `/readyz`",
        )
    if answer.is_ours:
        return
    if answer.status == HTTPStatus.OK:
        yield problem(
            CALLBACK,
            "somebody answers 200, but no ingress of this version",
            why="what answers 200 and stores nothing loses every callback",
            todo="see where provider.callback_url leads; a proxy must pass on"
            " /callbacks/ as it is, with its headers",
        )
        return
    todo = _ADVICE.get(answer.status, "look at the log of the ingress and of its proxy")
    if answer.status in _REDIRECT:
        todo = "set provider.callback_url to where it leads: that a redirect is"
        todo += " followed is not documented"
    # From the networks that are let in it may well be open.
    is_outside = answer.status == HTTPStatus.FORBIDDEN and settings.ingress.networks
    judge = warning if is_outside else problem
    yield judge(
        CALLBACK, f"expected 200, got {answer.status} for a probe", why=_WHY, todo=todo
    )


#: What to do about the answers that an ingress and its proxies give.
_ADVICE: Final = {
    401: "give the ingress and this process the same ingress.tokens and"
    " ingress.signature.keys, and the same time",
    403: "run it from a network in ingress.networks, or put the provider's in there",
    404: "let the proxy pass on /callbacks/ with its whole path",
    405: "let the proxy pass on POST",
    413: "raise the proxy's limit of bodies to that of the ingress, 2 MiB for MIDI",
    415: "let the proxy pass on the header Content-Type",
    429: "raise ingress.rate_per_second, or the proxy's limit",
    502: "start the ingress, or correct where the proxy leads",
    503: "see `/readyz` of the ingress: neither broker nor spool takes anything",
    504: "start the ingress, or correct where the proxy leads",
}


def _judge_stranger(answer: Answer, shown: str) -> Iterator[Finding]:
    if answer.is_ours:
        yield problem(
            CALLBACK,
            f"a callback with {shown} is let in",
            why="anybody who finds the address can post callbacks",
            todo="give the ingress the settings that this process has, and start it"
            " again",
        )


def _unreachable(error: Exception) -> _Closed:
    return _Closed(
        f"no answer: {_text(error)}",
        todo="start the ingress, and open the way to it: firewall, proxy, tunnel",
    )


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return (
            f"nothing within the {reach.PROVIDER_SECONDS:g} s that the provider waits"
        )
    if isinstance(error, aiohttp.ClientResponseError):
        # Not its own text: that has the whole address, and the token is in it.
        return f"{error.status} {type(error).__name__}: what answers speaks no HTTP"
    if isinstance(error, aiohttp.InvalidURL):
        return type(error).__name__
    return str(error) or type(error).__name__
