//! Protocol-independent requests and replies, and their validation.
