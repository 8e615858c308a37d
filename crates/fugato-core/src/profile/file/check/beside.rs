//! What measurements beside other models must satisfy, and what is concluded from them.

use super::{TIME_EXPECTED, is_time};
use crate::profile::file::{Beside, Interference, ModelProfile, ProfileError};

impl ModelProfile {
    /// Checks what was measured beside other models on a device of `slices` slices.
    pub(super) fn check_beside(&self, slices: u16) -> Result<(), ProfileError> {
        for beside in &self.beside {
            self.check_one_beside(beside, slices)?;
        }
        let Some(Interference {
            sensitivity,
            demand,
        }) = self.interference
        else {
            return Ok(());
        };
        for (field, found) in [("sensitivity", sensitivity), ("demand", demand)] {
            if !found.is_finite() || found < 0.0 {
                let field = format!("interference.{field}");
                return Err(self.wrong(&field, &found, "a number of at least 0"));
            }
        }
        Ok(())
    }

    fn check_one_beside(&self, beside: &Beside, slices: u16) -> Result<(), ProfileError> {
        let field = |name: &str| format!("beside.{name}");
        for (name, text) in [("model", &beside.model), ("hash", &beside.hash)] {
            if text.is_empty() {
                return Err(self.wrong(&field(name), &"empty", "that of the neighbour"));
            }
        }
        let counts = [
            ("batch", beside.batch),
            ("neighbour_batch", beside.neighbour_batch),
            ("repeats", beside.repeats),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(self.wrong(&field(name), &0, "at least 1"));
        }
        if beside.share == 0 || beside.share > slices {
            let expected = format!("1 to {slices} slices");
            return Err(self.wrong(&field("share"), &beside.share, &expected));
        }
        let others = slices - beside.share;
        if beside.neighbours == 0 || beside.neighbours > others {
            let expected = format!("1 to the other {others} slices");
            return Err(self.wrong(&field("neighbours"), &beside.neighbours, &expected));
        }
        for (name, found) in [("alone_s", beside.alone_s), ("beside_s", beside.beside_s)] {
            if !is_time(found) {
                return Err(self.wrong(&field(name), &found, TIME_EXPECTED));
            }
        }
        Ok(())
    }
}
