//! Configuration: raw, resolved, with the origin of each value.
