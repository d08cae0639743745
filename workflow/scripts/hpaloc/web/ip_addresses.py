"""IP addresses that belong to the public internet, and those of private networks."""

import ipaddress

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What is assigned of IPv6, and the part of it that stands for IPv4 addresses behind a relay.
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_6TO4 = ipaddress.ip_network("2002::/16")


def is_public(address: str) -> bool:
    """Whether an IP address (as text) belongs to the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    elif ip.version == 6 and ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    elif ip.version == 6 and (ip not in _GLOBAL_V6 or ip in _6TO4):
        return False
    return ip.is_global and not ip.is_multicast


def is_number(host: str) -> bool:
    """Whether the host of an address is an IP address and no name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
