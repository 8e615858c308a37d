//! Model repositories on disk.
