"""Which addresses a source may be fetched from: public ones, and those networks that the settings name.

A name is resolved once, here, and the connection (`connections`) goes to exactly the address that was judged: a name
that changes its address between two looks finds no second look. The registries are RFC 6890's, as `ipaddress` has them.
"""

import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Sequence[str]]
"""Addresses of a host, as text, in the order to try them. Raises OSError."""

_NAT64 = ip_network("64:ff9b::/96")
_REFUSED_PUBLIC = (
    ip_network("168.63.129.16/32"),  # Azure's platform, public by its number only
    ip_network("192.88.99.0/24"),  # the former 6to4 relays
    ip_network("2001::/32"),  # Teredo: it hides an IPv4 address
    ip_network("fec0::/10"),  # the former site-local addresses
)


class AddressRefused(Exception):
    """A host has no address that may be connected to."""


class AllowedAddresses:
    """Judges addresses. `own` are networks that may be used though they are not public."""

    def __init__(self, own: Iterable[str] = (), resolve: Resolver | None = None) -> None:
        self._own = tuple(ip_network(network) for network in own)
        self._resolve = resolve or _resolved

    def of(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to. Raises AddressRefused where there is none, and OSError."""
        found = [address for address in self._resolve(host, port) if self.allows(address)]
        if not found:
            raise AddressRefused
        return found

    def allows(self, text: str) -> bool:
        """Whether this address may be connected to."""
        try:
            address = _bare(ip_address(text))
        except ValueError:
            return False
        if any(address in network for network in self._own):
            return True
        is_public = address.is_global and not address.is_multicast and not address.is_reserved
        return is_public and not any(address in network for network in _REFUSED_PUBLIC)


def _bare(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _resolved(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))
