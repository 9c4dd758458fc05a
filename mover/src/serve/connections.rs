//! How many connections one address may hold, so that nobody takes the places of all others.
//!
//! Counted from the accepted connection (with TLS: from the end of its handshake, which has a time limit and a bound of
//! its own in [`server`](super::server)) to its end. One that is too many is shut at once, without an answer. IPv6
//! addresses count by their /64, which is what one host has. Behind a proxy of our own all people have one address: there
//! the proxy counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Connections of one address when nobody says otherwise: some hundred agents behind one address translation.
pub const BUILT_IN: u32 = 1024;

/// What is open of one address.
#[derive(Default)]
struct Held {
    connections: u32,
    /// It was told in the log that this address has too many.
    is_told: bool,
}

/// All addresses with open connections: as many as there are connections, which are bounded.
#[derive(Clone)]
pub struct Connections {
    most: u32,
    held: Arc<Mutex<HashMap<IpAddr, Held>>>,
}

/// A connection that counts, until it is dropped.
pub struct Place {
    all: Connections,
    address: IpAddr,
}

impl Connections {
    /// With `most` for each address.
    pub fn new(most: u32) -> Connections {
        Connections { most, held: Arc::default() }
    }

    /// A place for one more connection of this address, if it has one left.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let address = host(address);
        let mut all = self.held.lock();
        let held = all.entry(address).or_default();
        if held.connections < self.most {
            held.connections += 1;
            return Some(Place { all: self.clone(), address });
        }
        metrics::counter!("mover_http_connections_refused_total").increment(1);
        if !held.is_told {
            held.is_told = true;
            tracing::warn!(%address, most = self.most, "too many connections of one address: more are refused");
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.held.lock();
        if let Entry::Occupied(mut held) = all.entry(self.address) {
            held.get_mut().connections -= 1;
            if held.get().connections == 0 {
                held.remove();
            }
        }
    }
}

/// What stands for one host.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_by_host_and_given_back() {
        let all = Connections::new(2);
        let mut first = vec![all.take(address("10.0.0.1")), all.take(address("::ffff:10.0.0.1"))];
        assert!(first.iter().all(Option::is_some));
        assert!(all.take(address("10.0.0.1")).is_none(), "the same host by its other name");
        assert!(all.take(address("10.0.0.2")).is_some(), "another one");
        first.pop();
        assert!(all.take(address("10.0.0.1")).is_some(), "one was given back");
        let sixes = [all.take(address("2001:db8::1")), all.take(address("2001:db8::2"))];
        assert!(sixes.iter().all(Option::is_some) && all.take(address("2001:db8::3")).is_none());
        assert!(all.take(address("2001:db8:0:1::3")).is_some(), "another network");
        drop((first, sixes));
        assert!(all.held.lock().is_empty(), "nothing stays of who has gone");
    }
}
