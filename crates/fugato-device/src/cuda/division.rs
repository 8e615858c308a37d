//! How a device comes to be divided, or not: nothing here calls the driver by itself.

use super::driver::CudaError;
use super::layout::SmGranularity;

/// The groups that a device of so many multiprocessors is divided into, `split` by the driver into
/// groups of at least so many; or the `whole` where it is too small, or the driver does not divide
/// it, which a warning says. An error that every further call has too stays one.
pub(super) fn divide<T>(
    (sms, granularity): (u32, SmGranularity),
    split: impl FnOnce(u32) -> Result<T, CudaError>,
    whole: impl FnOnce() -> Result<T, CudaError>,
) -> Result<T, CudaError> {
    if granularity.slices(sms).len() < 2 {
        let why = too_small(sms, granularity);
        tracing::warn!(why, "models share the device in time only");
        return whole();
    }
    match split(granularity.slice()) {
        Err(error) if !error.is_sticky() => {
            tracing::warn!(
                %error,
                "the driver does not divide the device, which models then share in time only"
            );
            whole()
        }
        divided => divided,
    }
}

/// Why a device is not divided, for people.
pub(super) fn too_small(sms: u32, granularity: SmGranularity) -> String {
    let slice = granularity.slice();
    format!(
        "too small to be divided: {sms} multiprocessors, expected at least {}, two groups of {slice}",
        slice.saturating_mul(2)
    )
}

#[cfg(test)]
mod tests {
    use super::super::layout::SmLayout;
    use super::*;

    const HOPPER: SmGranularity = SmGranularity { least: 8, step: 8 };

    fn error(code: u32) -> CudaError {
        CudaError {
            call: "cuDevSmResourceSplitByCount",
            code,
            name: String::new(),
            meaning: String::new(),
        }
    }

    #[test]
    fn a_device_that_the_driver_does_not_divide_is_whole() {
        let device = (132, HOPPER);
        let refused = divide(device, |_| Err(error(914)), || Ok(vec![132]));
        let layout = SmLayout::new(132, refused.expect("the driver gives the whole"));
        assert!(!layout.is_divided());
        assert_eq!(layout.slices().0, 1);
        let split = |least| {
            assert_eq!(least, 8, "the smallest group");
            Ok(vec![8; 16])
        };
        let divided = divide(device, split, || panic!("nobody needs it"));
        assert_eq!(divided, Ok(vec![8; 16]));
        let none = || panic!("every call fails");
        let broken = divide::<Vec<u32>>(device, |_| Err(error(700)), none);
        assert_eq!(broken, Err(error(700)));
    }

    #[test]
    fn a_card_too_small_to_divide_is_not_asked_to_be() {
        for sms in [1, 8, 15] {
            let split = |_| panic!("the driver would refuse");
            let groups = divide((sms, HOPPER), split, || Ok(vec![sms]));
            let layout = SmLayout::new(sms, groups.expect("the driver gives the whole"));
            assert_eq!(
                (layout.slices().0, layout.is_divided()),
                (1, false),
                "{sms}"
            );
        }
        assert_eq!(
            too_small(14, HOPPER),
            "too small to be divided: 14 multiprocessors, expected at least 16, two groups of 8"
        );
        let broken = divide::<Vec<u32>>((8, HOPPER), |_| panic!("as above"), || Err(error(999)));
        assert_eq!(broken, Err(error(999)));
    }
}
