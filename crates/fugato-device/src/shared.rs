//! Ranges of files that clients share with the server, and their reading.
//!
//! **Invariant:** a client's file is read (`pread`), never mapped: a client that truncates
//! a mapped file kills whoever touches it (SIGBUS), and one that is read gives a short
//! read.

use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// A range of a client's shared memory, read when the batch is made.
#[derive(Clone, Debug)]
pub struct SharedSlice {
    /// The file, which stays open while a request names it.
    pub file: Arc<File>,
    /// Where the range begins, in bytes from the start of the file.
    pub position: u64,
    /// Bytes of the range.
    pub length: usize,
    /// The client's name for the region the range is in.
    pub region: Arc<str>,
    /// Where the range begins, in bytes from the start of the region.
    pub offset: u64,
}

impl PartialEq for SharedSlice {
    /// Whether both are the same range of the same open file.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && (self.position, self.length) == (other.position, other.length)
    }
}

impl Eq for SharedSlice {}

impl SharedSlice {
    /// Reads the range into memory of its length.
    ///
    /// # Errors
    /// [`InputFault::Short`] where the file ends before the range does,
    /// [`InputFault::Unreadable`] where it cannot be read.
    ///
    /// # Panics
    /// Where `into` is of another length: a bug of the caller.
    pub fn read_into(&self, into: &mut [u8]) -> Result<(), InputFault> {
        assert_eq!(into.len(), self.length, "memory for region {}", self.region);
        let mut done = 0;
        while done < self.length {
            match self
                .file
                .read_at(&mut into[done..], self.position + done as u64)
            {
                Ok(0) => {
                    return Err(InputFault::Short {
                        region: Arc::clone(&self.region),
                        offset: self.offset,
                        found: done as u64,
                        expected: self.length as u64,
                    });
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(InputFault::Unreadable {
                        region: Arc::clone(&self.region),
                        reason: error.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads the range into memory of its own.
    ///
    /// # Errors
    /// As [`Self::read_into`].
    pub fn read(&self) -> Result<Bytes, InputFault> {
        let mut copy = vec![0; self.length];
        self.read_into(&mut copy)?;
        Ok(copy.into())
    }
}

/// Why one request of a batch has no inputs, found when they were copied. The other
/// requests of the batch are not touched by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputFault {
    /// The client's file ends before the range does.
    #[error("region `{region}` ended after {found} of the {expected} bytes from {offset}")]
    Short {
        /// The client's name of the region.
        region: Arc<str>,
        /// Where the range begins, in bytes from the start of the region.
        offset: u64,
        /// Bytes that were there.
        found: u64,
        /// Bytes of the range.
        expected: u64,
    },
    /// The client's file cannot be read.
    #[error("region `{region}` cannot be read: {reason}")]
    Unreadable {
        /// The client's name of the region.
        region: Arc<str>,
        /// The operating system's words.
        reason: String,
    },
    /// An element that its type does not have, which only the copy can tell for certain:
    /// the client may write to its memory at any time.
    #[error("element {index} of input `{input}` is {found}, expected a BOOL of 0 or 1")]
    Bool {
        /// The model's name of the input.
        input: String,
        /// Which element of the request's tensor.
        index: usize,
        /// Its byte.
        found: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn slice(file: File, position: u64, length: usize) -> SharedSlice {
        SharedSlice {
            file: Arc::new(file),
            position,
            length,
            region: "r".into(),
            offset: position,
        }
    }

    #[test]
    fn a_range_is_read_from_its_place() {
        let mut file = tempfile::tempfile().expect("a file can be made");
        file.write_all(b"0123456789").expect("it can be written");
        let slice = slice(file, 3, 4);
        assert_eq!(
            slice.read().expect("it is there"),
            Bytes::from_static(b"3456")
        );
        // As often as one likes: nothing moves.
        assert_eq!(
            slice.read().expect("it is there"),
            Bytes::from_static(b"3456")
        );
    }

    #[test]
    fn a_file_that_shrank_says_how_far_it_went() {
        let mut file = tempfile::tempfile().expect("a file can be made");
        file.write_all(b"0123456789").expect("it can be written");
        let slice = slice(file, 3, 4);
        slice.file.set_len(5).expect("it can be cut");
        let fault = slice.read().expect_err("two bytes are left of four");
        assert_eq!(
            fault,
            InputFault::Short {
                region: "r".into(),
                offset: 3,
                found: 2,
                expected: 4,
            }
        );
    }
}
