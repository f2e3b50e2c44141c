//! Which network addresses are the public Internet's. All other addresses are inside somebody's network: a
//! request that makes the server fetch from there reads what its sender cannot reach (server-side request
//! forgery).
//!
//! Source: the IANA special-purpose registries for IPv4 and IPv6. `std`'s own `is_global` is not stable yet.
//! When in doubt the answer is no.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is globally reachable unicast.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let reserved = match address.octets() {
        [0, ..]                         // this network
        | [10, ..]                      // private
        | [100, 64..=127, ..]           // carrier-grade NAT
        | [127, ..]                     // loopback
        | [169, 254, ..]                // link-local, and the clouds' metadata services
        | [172, 16..=31, ..]            // private
        | [192, 0, 0 | 2, _]            // protocol assignments, documentation
        | [192, 31, 196, _]             // AS112
        | [192, 52, 193, _]             // AMT
        | [192, 88, 99, _]              // 6to4 relays
        | [192, 168, ..]                // private
        | [192, 175, 48, _]             // AS112
        | [198, 18..=19, ..]            // benchmarks
        | [198, 51, 100, _]             // documentation
        | [203, 0, 113, _]              // documentation
        | [224..=255, ..] => true,      // multicast, reserved, broadcast
        _ => false,
    };
    !reserved
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // IPv4-mapped: the system connects to the IPv4 address inside.
        [0, 0, 0, 0, 0, 0xffff, a, b]
        // NAT64: the network's translator does.
        | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => is_global_v4(embedded(a, b)),
        [0x2001, 0..=0x1ff, ..]             // protocol assignments: Teredo, ORCHID, benchmarks
        | [0x2001, 0xdb8, ..]               // documentation
        | [0x2002, ..]                      // 6to4: an IPv4 address inside
        | [0x2620, 0x4f, 0x8000, ..]        // AS112
        | [0x3fff, 0..=0xfff, ..] => false, // documentation
        // Global unicast is 2000::/3. Outside it: unspecified, loopback, IPv4-compatible, unique local
        // (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast (ff00::/8), discard-only
        // (100::/64), local NAT64.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Whether an address is one of an organisation's own network: private, carrier-grade NAT or unique local.
/// Loopback and link-local addresses are not, and neither are those where clouds have their metadata.
pub fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_internal_v4(v4),
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0xffff, a, b] => is_internal_v4(embedded(a, b)),
            // The metadata service of AWS, over IPv6.
            [0xfd00, 0xec2, ..] => false,
            [first, ..] => first & 0xfe00 == 0xfc00,
        },
    }
}

fn is_internal_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        // The metadata service of Alibaba Cloud.
        [100, 100, 100, 200] => false,
        [10, ..] | [100, 64..=127, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        _ => false,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(addresses: &[&str], global: bool) {
        for address in addresses {
            assert_eq!(is_global(address.parse().unwrap()), global, "{address}");
        }
    }

    #[test]
    fn public_addresses_are_global() {
        check(
            &[
                "1.1.1.1",
                "8.8.8.8",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "128.0.0.1",
                "169.253.255.255",
                "169.255.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.1",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "223.255.255.255",
            ],
            true,
        );
        check(
            &[
                "2606:4700:4700::1111",
                "2001:4860:4860::8888",
                "2001:200::1",
                "2a00:1450::1",
                "::ffff:8.8.8.8",
                "64:ff9b::8.8.8.8",
                "3ffe::1",
            ],
            true,
        );
    }

    #[test]
    fn every_special_v4_range_is_refused_at_both_ends() {
        check(
            &[
                "0.0.0.0",
                "0.255.255.255",
                "10.0.0.0",
                "10.255.255.255",
                "100.64.0.0",
                "100.127.255.255",
                "127.0.0.1",
                "127.255.255.255",
                "169.254.0.0",
                "169.254.169.254",
                "169.254.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.0.0.0",
                "192.0.0.255",
                "192.0.2.0",
                "192.0.2.255",
                "192.31.196.1",
                "192.52.193.1",
                "192.88.99.1",
                "192.168.0.0",
                "192.168.255.255",
                "192.175.48.1",
                "198.18.0.0",
                "198.19.255.255",
                "198.51.100.7",
                "203.0.113.7",
                "224.0.0.0",
                "239.255.255.255",
                "240.0.0.0",
                "255.255.255.255",
            ],
            false,
        );
    }

    #[test]
    fn every_special_v6_range_is_refused() {
        check(
            &[
                "::",
                "::1",
                "::127.0.0.1",
                "::8.8.8.8",
                "100::1",
                "64:ff9b:1::1",
                "2001::1",
                "2001:10::1",
                "2001:20::1",
                "2001:1ff::1",
                "2001:db8::1",
                "2002:7f00:1::",
                "2002:808:808::",
                "2620:4f:8000::1",
                "3fff::1",
                "3fff:fff::1",
                "5f00::1",
                "fc00::1",
                "fdff::1",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff02::1",
                "ffff::1",
            ],
            false,
        );
    }

    #[test]
    fn an_inside_is_private_and_neither_this_machine_nor_metadata() {
        for address in [
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "172.31.255.255",
            "192.168.0.1",
            "fc00::1",
            "fdff::1",
        ] {
            assert!(is_internal(address.parse().unwrap()), "{address}");
        }
        for address in [
            "8.8.8.8",
            "9.255.255.255",
            "100.100.100.200",
            "100.128.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "172.32.0.0",
            "0.0.0.0",
            "::1",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(!is_internal(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_private_address_inside_a_v6_one_is_refused() {
        check(
            &[
                "::ffff:127.0.0.1",
                "::ffff:10.1.2.3",
                "::ffff:169.254.169.254",
                "::ffff:100.64.0.1",
                "::ffff:0.0.0.0",
                "64:ff9b::127.0.0.1",
                "64:ff9b::192.168.0.1",
            ],
            false,
        );
    }
}
