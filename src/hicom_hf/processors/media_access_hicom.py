"""What reading a video or an image may touch: which files, which servers, how many bytes, how long.

Programs that read what their own user names take `MediaAccess.open()`, the default. Programs that read what strangers name take
`MediaAccess.guarded()`. The names of the options are those of vLLM.
"""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

# Reached by a public IPv6 address but leading elsewhere: 6to4 and Teredo carry an IPv4 address inside.
TUNNELS = (
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
    ipaddress.ip_network("192.88.99.0/24"),
)
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # so NAT64 (64:ff9b::/96) and IPv4 written as IPv6 are outside


class MediaAccessError(ValueError):
    """A source that the caller's `MediaAccess` does not allow; the message says why, without the source's name."""


@dataclass(frozen=True)
class MediaAccess:
    """What a source may be.

    Attributes:
        allow_private_addresses: whether servers in private, loopback, link-local and other not public networks may be asked.
        allowed_private_hosts: host names and addresses that may be asked although they are private, as a store of one's own.
        allowed_media_domains: the only hosts that may be asked, and their subdomains; None for all.
        allowed_local_media_path: folders below which local files may be read, after symbolic links; None for all, () for none.
        max_bytes: of a download or a `data:` URL, after decompression.
        stall_seconds: after which a download with hardly any progress ends.
        total_seconds: after which a download ends; None for no bound.
        resolve: finds the addresses of a host, as `socket.getaddrinfo`.

    Example:
        >>> MediaAccess.guarded().check_host("localhost", ["127.0.0.1"])  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        hicom_hf...MediaAccessError: the host localhost is at 127.0.0.1, which is not a public address
    """

    allow_private_addresses: bool = True
    allowed_private_hosts: tuple[str, ...] = ()
    allowed_media_domains: tuple[str, ...] | None = None
    allowed_local_media_path: tuple[str, ...] | None = None
    max_bytes: int = 8 * 2**30
    stall_seconds: float = 30.0
    total_seconds: float | None = None
    resolve: Callable = field(default=socket.getaddrinfo, repr=False, compare=False)

    @classmethod
    def open(cls) -> "MediaAccess":
        """For what one's own user names: any local file, any http(s) server, 8 GiB, as long as bytes keep coming."""
        return cls()

    @classmethod
    def guarded(
        cls,
        *,
        allowed_local_media_path: str | os.PathLike | Iterable[str | os.PathLike] = (),
        allowed_media_domains: Iterable[str] | None = None,
        allowed_private_hosts: Iterable[str] = (),
        max_bytes: int = 256 * 2**20,
        stall_seconds: float = 10.0,
        total_seconds: float = 60.0,
        resolve: Callable = socket.getaddrinfo,
    ) -> "MediaAccess":
        """For what strangers name: public servers only, no local files but those below the named folders, 256 MiB, 60 s."""
        if isinstance(allowed_local_media_path, (str, os.PathLike)):
            allowed_local_media_path = (allowed_local_media_path,)
        if isinstance(allowed_media_domains, str) or isinstance(allowed_private_hosts, str):
            raise TypeError("allowed_media_domains and allowed_private_hosts are lists of host names, got a string")
        folders = [os.fspath(folder) for folder in allowed_local_media_path]
        for folder in folders:
            if not os.path.isdir(folder):
                raise ValueError(f"allowed_local_media_path: there is no folder {folder!r}")
        return cls(
            allow_private_addresses=False,
            allowed_private_hosts=tuple(map(_host_name, allowed_private_hosts)),
            allowed_media_domains=None
            if allowed_media_domains is None
            else tuple(map(_host_name, allowed_media_domains)),
            allowed_local_media_path=tuple(map(os.path.realpath, folders)),
            max_bytes=max_bytes,
            stall_seconds=stall_seconds,
            total_seconds=total_seconds,
            resolve=resolve,
        )

    @property
    def is_guarded(self) -> bool:
        return not self.allow_private_addresses

    def local_path(self, path: Path) -> Path:
        """The path to open: itself, or, where folders are named, what it leads to after all symbolic links.

        Raises:
            MediaAccessError: it lies outside of the named folders.
        """
        if self.allowed_local_media_path is None:
            return path
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(folder) for folder in self.allowed_local_media_path):
            raise MediaAccessError(
                "local files are not allowed here but below the folders of allowed_local_media_path"
                if self.allowed_local_media_path
                else "local files are not allowed here (allowed_local_media_path names no folder)"
            )
        return real

    def check_domain(self, host: str) -> None:
        """Refuse a host that the list of domains does not name.

        Raises:
            MediaAccessError: likewise.
        """
        if self.allowed_media_domains is None:
            return
        host = _host_name(host)
        if not any(host == domain or host.endswith(f".{domain}") for domain in self.allowed_media_domains):
            raise MediaAccessError(f"the host {host!r} is not among allowed_media_domains")

    def check_host(self, host: str, addresses: Iterable[str]) -> None:
        """Refuse a host of which any address is not public.

        Args:
            host: as in the URL.
            addresses: what it resolved to; the connection goes to one of these and resolves nothing again.

        Raises:
            MediaAccessError: names the host and the address.
        """
        if self.allow_private_addresses or _host_name(host) in self.allowed_private_hosts:
            return
        for address in addresses:
            if not is_public(address):
                raise MediaAccessError(f"the host {host} is at {address}, which is not a public address")


def media_access_of(
    mode: str, allowed_local_media_path: Iterable[str] | None, allowed_media_domains: Iterable[str] | None
) -> MediaAccess:
    """The access that a command or a recipe asks for by the name of a mode.

    Args:
        mode: "open" or "guarded".
        allowed_local_media_path: folders below which local files may be read; only with "guarded".
        allowed_media_domains: the only hosts that may be asked; only with "guarded". None for all.

    Raises:
        ValueError: there is no such mode or folder, or open access is restricted.

    Example:
        >>> media_access_of("guarded", None, ["example.org"]).allowed_media_domains
        ('example.org',)
    """
    if mode not in ("open", "guarded"):
        raise ValueError(f"media must be open or guarded, got {mode!r}")
    if mode == "guarded":
        return MediaAccess.guarded(
            allowed_local_media_path=allowed_local_media_path or (),
            allowed_media_domains=allowed_media_domains or None,
        )
    if allowed_local_media_path or allowed_media_domains:
        raise ValueError("allowed_local_media_path and allowed_media_domains restrict guarded media; open allows all")
    return MediaAccess.open()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and no tunnel to somewhere else.

    Example:
        >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("100.64.0.1"), is_public("64:ff9b::7f00:1")
        (True, False, False, False)
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if any(parsed in network for network in TUNNELS if network.version == parsed.version):
        return False
    if parsed.version == 6 and parsed not in GLOBAL_IPV6:
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _host_name(host: str) -> str:
    return host.rstrip(".").lower()


OPEN_ACCESS = MediaAccess.open()
