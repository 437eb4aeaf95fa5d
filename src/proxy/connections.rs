//! How many connections there may be, in all and from one address. One too many is closed before a byte of it is read:
//! an answer would cost what the limit is to save.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::settings::Limits;
use crate::rate::Network;

/// How many connections there may be, and are. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    capacity: u32,
    /// How many descriptors may be open when a client is let in.
    descriptors: usize,
    addresses: Arc<Addresses>,
}

/// A place among them, until it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _of_address: Option<OfAddress>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `connections`
    Full,
    /// `connections_per_address`
    Address,
    /// What descriptors are left are for others than clients.
    Descriptors,
}

impl Connections {
    /// Room for `limit` of them, as long as there are no more than so many descriptors open.
    pub fn new(limit: usize, descriptors: usize) -> Self {
        let capacity = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(usize::try_from(capacity).unwrap_or(usize::MAX)));
        Self { free, capacity, descriptors, addresses: Arc::default() }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        usize::try_from(self.capacity).unwrap_or(usize::MAX).saturating_sub(self.free.available_permits())
    }

    /// Waits until none is open. Only to be asked for when none is accepted any more.
    pub async fn all_closed(&self) {
        // The semaphore is never closed.
        let _ = self.free.acquire_many(self.capacity).await;
    }

    /// A place for one more, with this descriptor: the system gives out the lowest that is free, so all below are in use.
    /// `counted`: whether `peer` is one client, rather than a proxy of many.
    pub(super) fn place(
        &self,
        descriptor: i32,
        peer: IpAddr,
        limits: &Limits,
        counted: bool,
    ) -> Result<Place, Refused> {
        if usize::try_from(descriptor).is_ok_and(|open| open >= self.descriptors) {
            return Err(Refused::Descriptors);
        }
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| Refused::Full)?;
        let of_address = match limits.connections_per_address {
            usize::MAX => None,
            _ if !counted => None,
            most => {
                let network = Network::of(peer, limits.ipv6_prefix);
                Some(self.addresses.one_more(network, most).ok_or(Refused::Address)?)
            }
        };
        Ok(Place { _permit: permit, _of_address: of_address })
    }
}

/// Who is connected how often. No longer than the list of connections: who has none is not in it.
#[derive(Default)]
struct Addresses(Mutex<HashMap<Network, usize>>);

/// One connection of an address.
struct OfAddress {
    addresses: Arc<Addresses>,
    network: Network,
}

impl Addresses {
    fn one_more(self: &Arc<Self>, network: Network, most: usize) -> Option<OfAddress> {
        let mut open = self.0.lock();
        let count = open.entry(network).or_default();
        // The entry of somebody new never stays behind: `most` is at least one.
        (*count < most).then(|| {
            *count += 1;
            OfAddress { addresses: Arc::clone(self), network }
        })
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut open = self.addresses.0.lock();
        if let Entry::Occupied(mut entry) = open.entry(self.network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_is_forgotten() {
        let addresses = Arc::new(Addresses::default());
        let network = Network::of(IpAddr::from([192, 0, 2, 1]), 64);
        let first = addresses.one_more(network, 2);
        let second = addresses.one_more(network, 2);
        assert!(first.is_some() && second.is_some() && addresses.one_more(network, 2).is_none());
        drop(first);
        assert!(addresses.one_more(network, 2).is_some());
        drop(second);
        assert!(addresses.0.lock().is_empty());
    }
}
