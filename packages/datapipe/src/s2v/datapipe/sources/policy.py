"""Which URLs may be fetched: hosts on the allow-list, at public addresses only.

The check holds for every hop. All addresses that a name resolves to must be public, since a
name may be given a private one beside a public one, or another one between check and use; the
connection then goes to an address that was checked (:mod:`.download`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.sources.address import URL_SCHEMES, without_secrets

Resolver = Callable[[str, int], Sequence[str]]
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NEVER: Final = tuple(
    map(
        ipaddress.ip_network,
        # Beside what `ipaddress` calls not global: protocol assignments, 6to4 relays,
        # IPv4-compatible addresses, translation inside one site, site-local addresses.
        ("192.0.0.0/24", "192.88.99.0/24", "::/96", "64:ff9b:1::/48", "fec0::/10"),
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """One hop that may be made.

    Attributes:
        url: the URL, whole.
        scheme, host, port: its parts; the host in lower case, as ASCII.
        resource: path and query, as they go into the request.
        addresses: all that the host resolves to, each of them public.
    """

    url: str
    scheme: str
    host: str
    port: int
    resource: str
    addresses: tuple[str, ...]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, in whatever way it is wrapped."""
    try:
        ip: IpAddress = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo:
            return False  # a tunnel; no server of a file stands there
        if inner is not None:
            return is_public(str(inner))
    blocked = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback
    return ip.is_global and not blocked and not any(ip in net for net in _NEVER)


def host_allowed(host: str, port: int, scheme: str, allow: Sequence[str]) -> bool:
    """Whether the allow-list names the host at this port.

    An entry without a port means the scheme's own; ``*.a.example`` means every name below
    ``a.example`` and not that name itself.
    """
    for entry in allow:
        name, _, given = entry.partition(":")
        if port != (int(given) if given else _PORTS[scheme]):
            continue
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def check_allowed(url: str, allow: Sequence[str]) -> tuple[str, str, int, str]:
    """Scheme, host, port and resource of a URL that the allow-list lets in; asks no network.

    Raises:
        MediaError: ``refused``, naming the setting that would let it in.
    """
    shown = without_secrets(url)
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower()
    except (ValueError, UnicodeError) as error:
        raise MediaError(MediaErrorKind.REFUSED, shown, f"no URL: {error}") from None
    scheme = parts.scheme.lower()
    if scheme not in URL_SCHEMES:
        raise MediaError(MediaErrorKind.REFUSED, shown, f"scheme {scheme!r}; http and https only")
    if parts.username is not None or parts.password is not None:
        raise MediaError(MediaErrorKind.REFUSED, shown, "the URL carries a user name")
    if any(c <= " " or c == "\x7f" for c in url):
        raise MediaError(
            MediaErrorKind.REFUSED, shown, "the URL holds spaces or control characters"
        )
    port = port or _PORTS[scheme]
    if not host or not host_allowed(host, port, scheme, allow):
        named = host if port == _PORTS[scheme] else f"{host}:{port}"
        raise MediaError(
            MediaErrorKind.REFUSED,
            shown,
            f"{named!r} is not on the allow-list; to fetch from there add it to downloads.allow",
        )
    resource = parts.path or "/"
    return scheme, host, port, f"{resource}?{parts.query}" if parts.query else resource


def system_resolver(host: str, port: int) -> Sequence[str]:
    """All addresses of a host, as this machine's resolver gives them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_target(url: str, allow: Sequence[str], resolve: Resolver) -> Target:
    """Check a URL and all addresses of its host.

    Raises:
        MediaError: ``refused`` by the list or by an address, ``missing`` when the name does not
            exist, ``transient`` when it could not be looked up.
    """
    scheme, host, port, resource = check_allowed(url, allow)
    shown = without_secrets(url)
    try:
        addresses = tuple(resolve(host, port))
    except socket.gaierror as error:
        gone = error.errno in {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)}
        kind = MediaErrorKind.MISSING if gone else MediaErrorKind.TRANSIENT
        raise MediaError(kind, shown, f"{host} cannot be looked up: {error.strerror}") from None
    except OSError as error:
        raise MediaError(MediaErrorKind.TRANSIENT, shown, f"looking up {host}: {error}") from None
    if not addresses:
        raise MediaError(MediaErrorKind.MISSING, shown, f"{host} has no address")
    private = [address for address in addresses if not is_public(address)]
    if private:
        raise MediaError(
            MediaErrorKind.REFUSED,
            shown,
            f"{host} leads to {private[0]}, which is no address of the public internet",
        )
    return Target(url, scheme, host, port, resource, addresses)
