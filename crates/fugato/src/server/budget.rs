//! The bound on bytes of requests and replies held at once, over all connections of both
//! protocols.
//!
//! Queues bound what was admitted; this also bounds what is still being read and what is
//! not yet sent, which many slow clients would otherwise make as large as they like.
//!
//! **Invariant:** a reply is never refused. Its bytes count, even past the limit, so that
//! further requests are.

use crate::error::{Fault, InferError};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes held and their limit.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Holds nothing yet.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicU64::new(0),
            limit: limit as u64,
        })
    }

    /// The share of one request, empty; it is given back when the last owner drops it.
    pub(super) fn hold(self: &Arc<Self>) -> Arc<Hold> {
        Arc::new(Hold {
            budget: Arc::clone(self),
            own: AtomicU64::new(0),
        })
    }
}

/// What one request holds of a [`Budget`].
#[derive(Debug)]
pub(super) struct Hold {
    budget: Arc<Budget>,
    own: AtomicU64,
}

impl Hold {
    /// Adds `count` bytes of the request. A request that is alone always fits: it has its
    /// own limit.
    ///
    /// # Errors
    /// `QueueFull` where all requests together would pass the limit.
    pub(super) fn take(&self, count: usize) -> Result<(), InferError> {
        let count = count as u64;
        let own = self.own.fetch_add(count, Ordering::Relaxed);
        let held = self.budget.held.fetch_add(count, Ordering::Relaxed);
        if held.saturating_add(count) <= self.budget.limit || held <= own {
            return Ok(());
        }
        Err(Fault::ServerFull {
            held,
            wanted: count,
            limit: self.budget.limit,
        }
        .into())
    }

    /// Bytes that this request holds.
    pub(super) fn held(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    /// Counts `count` bytes of the reply in place of the request's, which the run used up.
    pub(super) fn answer(&self, count: usize) {
        let count = count as u64;
        // Added before the request's are taken off, so that nobody sees too few.
        self.budget.held.fetch_add(count, Ordering::Relaxed);
        let request = self.own.swap(count, Ordering::Relaxed);
        self.budget.held.fetch_sub(request, Ordering::Relaxed);
    }

    /// Ties the hold to a part of the reply: it lasts until the part is sent, or dropped
    /// with its connection. A body is not enough for that: it ends when its last part is
    /// handed over to be sent.
    pub(super) fn until_sent(self: &Arc<Self>, part: Bytes) -> Bytes {
        Bytes::from_owner(Held {
            part,
            _hold: Arc::clone(self),
        })
    }
}

/// A part of a reply and the hold of all of it.
struct Held {
    part: Bytes,
    _hold: Arc<Hold>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.part
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let own = self.own.load(Ordering::Relaxed);
        self.budget.held.fetch_sub(own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn requests_share_the_limit_and_one_alone_always_fits() {
        let budget = Budget::new(100);
        let large = budget.hold();
        large.take(80).expect("it fits");
        large.take(80).expect("it is alone");
        let other = budget.hold();
        let error = other.take(1).expect_err("160 of 100 are held");
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert_eq!(
            error.to_string(),
            "the server holds 160 of 100 bytes of requests and replies, and this one would add 1"
        );
        drop((large, other));
        budget.hold().take(100).expect("everything was given back");
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reply_counts_in_place_of_its_request_until_its_last_part_is_gone() {
        let budget = Budget::new(100);
        let hold = budget.hold();
        hold.take(80).expect("it fits");
        hold.answer(300);
        let parts = [&b"head"[..], b"tensor"].map(|part| hold.until_sent(Bytes::from(part)));
        drop(hold);
        let [head, tensor] = parts;
        drop(head);
        let rest = tensor.slice(3..);
        drop(tensor);
        assert_eq!(rest, "sor");
        assert_eq!(budget.held.load(Ordering::Relaxed), 300);
        budget.hold().take(1).expect_err("300 of 100 are held");
        drop(rest);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }
}
