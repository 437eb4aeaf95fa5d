//! Who counts as one address: whoever has an IPv6 network has more addresses than could ever be remembered.

use std::net::IpAddr;

/// An IPv4 address, or an IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u128);

impl Network {
    /// `prefix`: how many bits of an IPv6 address count. An IPv4 address in IPv6's clothes is one of IPv4.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        match address.to_canonical() {
            // `::ffff:a.b.c.d`, which no canonical IPv6 address is.
            IpAddr::V4(address) => Self(0xffff << 32 | u128::from(address.to_bits())),
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
                Self(address.to_bits() & mask)
            }
        }
    }

    pub(super) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_and_ipv4_addresses_are_many() {
        let of = |address: &str, prefix| Network::of(address.parse().expect("an address"), prefix);
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:2", 64));
        assert_ne!(of("2001:db8::1", 64), of("2001:db8:0:1::1", 64));
        assert_eq!(of("2001:db8::1", 48), of("2001:db8:0:1::1", 48));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
        assert_eq!(of("2001:db8::1", 0), of("fe80::1", 0));
        assert_ne!(of("192.0.2.1", 64), of("192.0.2.2", 64));
        assert_eq!(of("::ffff:192.0.2.1", 64), of("192.0.2.1", 64));
    }
}
