//! Quantiles of the last few samples.

/// The last samples of a quantity, [`Window::SIZE`] where nothing else is asked for, with
/// exact quantiles over them.
///
/// # Cost
/// A sample is two binary searches and a move of at most 8 bytes per sample held; a quantile is
/// a look-up.
#[derive(Clone, Debug)]
pub struct Window {
    /// Samples remembered.
    size: usize,
    /// In order of arrival; a ring once full.
    arrived: Vec<u64>,
    /// The same samples, rising.
    sorted: Vec<u64>,
    /// Where the ring's oldest sample is.
    oldest: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self::of(Self::SIZE)
    }
}

impl Window {
    /// A window over the last `size` samples, at least one.
    pub fn of(size: usize) -> Self {
        Self {
            size: size.max(1),
            arrived: Vec::new(),
            sorted: Vec::new(),
            oldest: 0,
        }
    }

    /// Samples remembered: enough that the 95th percentile has three samples above it,
    /// few enough that a change of load shows within a second at 100 tasks per second.
    pub const SIZE: usize = 64;

    /// Takes in a sample; the oldest one goes once the window is full.
    pub fn push(&mut self, sample: u64) {
        let to = self.sorted.partition_point(|&known| known < sample);
        if self.arrived.len() < self.size {
            self.arrived.push(sample);
            return self.sorted.insert(to, sample);
        }
        let gone = std::mem::replace(&mut self.arrived[self.oldest], sample);
        self.oldest = (self.oldest + 1) % self.size;
        let from = self.sorted.partition_point(|&known| known < gone);
        // Only what lies between the two moves.
        let place = if from < to {
            self.sorted.copy_within(from + 1..to, from);
            to - 1
        } else {
            self.sorted.copy_within(to..from, to + 1);
            to
        };
        self.sorted[place] = sample;
    }

    /// The sample of rank `floor(quantile * (samples - 1))`, counted from 0 (the `lower`
    /// definition); `None` without samples. With it a single outlier among few samples
    /// does not become their 95th percentile.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product is between 0 and the window's size"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let last = self.sorted.len().checked_sub(1)?;
        // The cast cuts the fraction off.
        let rank = (quantile.clamp(0.0, 1.0) * last as f64) as usize;
        Some(self.sorted[rank.min(last)])
    }

    /// The number of samples held.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether no sample is held.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_use_the_lower_rank() {
        let mut window = Window::default();
        assert_eq!(window.quantile(0.5), None);
        for sample in [50, 10, 40, 20, 30] {
            window.push(sample);
        }
        let cases = [
            (0.0, 10),
            (0.24, 10),
            (0.25, 20),
            (0.5, 30),
            (0.95, 40),
            (1.0, 50),
            (7.0, 50),
        ];
        for (quantile, expected) in cases {
            assert_eq!(
                window.quantile(quantile),
                Some(expected),
                "quantile {quantile}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_sorting_the_last_samples(samples in prop::collection::vec(0u64..50, 1..300)) {
            let mut window = Window::default();
            for (count, &sample) in samples.iter().enumerate() {
                window.push(sample);
                let mut last: Vec<u64> = samples[..=count].iter().rev().take(Window::SIZE).copied().collect();
                last.sort_unstable();
                prop_assert_eq!(&window.sorted, &last);
            }
        }
    }
}
