//! Work queues for each partition, where the driver has them.

use super::driver::CudaError;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether partitions are asked for work queues of their own: the driver knows how, and has not
/// refused it.
#[derive(Debug)]
pub(super) struct WorkQueues(AtomicBool);

impl WorkQueues {
    pub(super) fn new(are_known: bool) -> Self {
        Self(AtomicBool::new(are_known))
    }

    pub(super) fn are_divided(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes something of resources, the `queues` among them as the last where there are any. Where
    /// the driver has none, or refuses them, it is made without, and so is whatever is made from
    /// then on; a warning says so once.
    ///
    /// # Errors
    /// Where it cannot be made without either.
    pub(super) fn with<R, T>(
        &self,
        mut resources: Vec<R>,
        queues: impl FnOnce() -> Result<R, CudaError>,
        mut make: impl FnMut(&mut [R]) -> Result<T, CudaError>,
    ) -> Result<T, CudaError> {
        if !self.are_divided() {
            return make(&mut resources);
        }
        let without = resources.len();
        let error = match queues() {
            Err(error) => error,
            Ok(queues) => {
                resources.push(queues);
                match make(&mut resources) {
                    Ok(made) => return Ok(made),
                    Err(error) => error,
                }
            }
        };
        resources.truncate(without);
        let made = make(&mut resources)?;
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "partitions share the device's work queues");
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(call: &'static str, code: u32) -> CudaError {
        CudaError {
            call,
            code,
            name: String::new(),
            meaning: String::new(),
        }
    }

    /// What is made of: groups, and the queues.
    type Made = Vec<&'static str>;

    const GROUPS: [&str; 2] = ["first", "second"];

    fn queues() -> Result<&'static str, CudaError> {
        Ok("queues")
    }

    fn all(resources: &mut [&'static str]) -> Result<Made, CudaError> {
        Ok(resources.to_vec())
    }

    #[test]
    fn partitions_have_queues_of_their_own_where_the_driver_has_them() {
        let known = WorkQueues::new(true);
        for _ in 0..2 {
            let made = known.with(GROUPS.to_vec(), queues, all);
            assert_eq!(made, Ok(vec!["first", "second", "queues"]));
        }
        assert!(known.are_divided());
    }

    #[test]
    fn a_driver_that_is_too_old_for_them_is_not_asked() {
        let old = WorkQueues::new(false);
        let made = old.with(GROUPS.to_vec(), || panic!("it has no such call"), all);
        assert_eq!(made, Ok(GROUPS.to_vec()));
        assert!(!old.are_divided());
    }

    #[test]
    fn a_driver_without_their_configuration_makes_partitions_that_share_them() {
        let none = WorkQueues::new(true);
        let asked = || Err(error("cuDeviceGetDevResource", 801));
        let made = none.with(GROUPS.to_vec(), asked, all);
        assert_eq!(made, Ok(GROUPS.to_vec()));
        assert!(!none.are_divided());
        // It is asked once.
        let made = none.with(GROUPS.to_vec(), || panic!("it was asked"), all);
        assert_eq!(made, Ok(GROUPS.to_vec()));
    }

    #[test]
    fn a_driver_that_refuses_them_makes_partitions_that_share_them() {
        let refused = WorkQueues::new(true);
        let make = |resources: &mut [&'static str]| match resources.contains(&"queues") {
            true => Err(error("cuDevResourceGenerateDesc", 1)),
            false => all(resources),
        };
        assert_eq!(
            refused.with(GROUPS.to_vec(), queues, make),
            Ok(GROUPS.to_vec())
        );
        assert!(!refused.are_divided());
    }

    #[test]
    fn what_fails_without_them_too_is_an_error_that_is_not_theirs() {
        let known = WorkQueues::new(true);
        let make = |_: &mut [&'static str]| Err::<Made, _>(error("cuGreenCtxCreate", 2));
        let failed = known.with(GROUPS.to_vec(), queues, make);
        assert_eq!(failed, Err(error("cuGreenCtxCreate", 2)));
        assert!(known.are_divided(), "nobody knows that they were refused");
    }
}
