//! The driver: the scheduler on the real clock and real devices.
