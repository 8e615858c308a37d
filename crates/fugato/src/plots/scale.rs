//! From values to pixels: scales, ticks, and numbers as people write them.

/// How values spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spread {
    Linear,
    /// Equal ratios are equally far apart; values must be above zero.
    Log,
}

/// Maps values to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    spread: Spread,
    from: f64,
    to: f64,
    first: f64,
    last: f64,
}

impl Scale {
    /// A scale on which `values.0` lies at pixel `pixels.0` and `values.1` at `pixels.1`.
    pub(super) fn new(spread: Spread, values: (f64, f64), pixels: (f64, f64)) -> Self {
        let warp = |value: f64| match spread {
            Spread::Linear => value,
            Spread::Log => value.ln(),
        };
        let (from, mut to) = (warp(values.0), warp(values.1));
        if to <= from {
            // One value alone lies at the first pixel; any width shows it.
            to = from + 1.0;
        }
        Self {
            spread,
            from,
            to,
            first: pixels.0,
            last: pixels.1,
        }
    }

    /// The pixel of a value.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = match self.spread {
            Spread::Linear => value,
            Spread::Log => value.ln(),
        };
        self.first + (value - self.from) / (self.to - self.from) * (self.last - self.first)
    }
}

/// Round values from `low` to `high`, about `wanted` of them, one to two or five apart in
/// some power of ten.
pub(super) fn linear_ticks(low: f64, high: f64, wanted: u16) -> Vec<f64> {
    let raw = (high - low) / f64::from(wanted.max(1));
    if raw.is_nan() || raw <= 0.0 {
        return vec![low];
    }
    let power = 10_f64.powf(raw.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let fits = steps.into_iter().find(|step| *step >= raw * 0.8);
    let step = fits.unwrap_or(power * 10.0);
    let first = (low / step - 1e-9).ceil();
    let count = ((high - first * step) / step + 1e-9).floor();
    (0..=count.max(0.0) as u32)
        .map(|index| (first + f64::from(index)) * step)
        .collect()
}

/// Values 1, 2 and 5 of each power of ten from `low` to `high`; where that gives fewer than
/// three, linear ticks.
pub(super) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    // Numbers have no powers beyond these.
    let power = |value: f64| (value as i32).clamp(-308, 308);
    let powers = power(low.log10().floor())..=power(high.log10().ceil());
    let of_power = |power: i32| [1.0, 2.0, 5.0].map(|part| part * 10_f64.powi(power));
    let inside = |tick: &f64| *tick >= low * 0.999 && *tick <= high * 1.001;
    let ticks: Vec<f64> = powers.clone().flat_map(of_power).filter(inside).collect();
    if ticks.len() < 3 {
        return linear_ticks(low, high, 5);
    }
    if ticks.len() > 9 {
        return powers
            .map(|power| 10_f64.powi(power))
            .filter(inside)
            .collect();
    }
    ticks
}

/// Those of sorted whole values to label, `apart` pixels from each other: all, or the first
/// and the multiples of a round step, or as many as fit with both ends.
pub(super) fn whole_ticks(values: &[u32], scale: &Scale, apart: f64) -> Vec<u32> {
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return Vec::new();
    };
    let clear = |one: u32, other: u32| {
        let [one, other] = [one, other].map(|value| scale.at(f64::from(value)));
        (one - other).abs() >= apart
    };
    for step in [1, 2, 5, 10, 20, 25, 50, 100] {
        let round = |value: &&u32| value.is_multiple_of(step) || *value == first;
        let kept: Vec<u32> = values.iter().filter(round).copied().collect();
        let ends = kept.last() == Some(last);
        if ends && kept.windows(2).all(|pair| clear(pair[0], pair[1])) {
            return kept;
        }
    }
    let mut kept: Vec<u32> = Vec::new();
    for value in values {
        let after = kept.last().is_none_or(|before| clear(*before, *value));
        if value == last || (after && clear(*value, *last)) {
            kept.push(*value);
        }
    }
    kept
}

/// A number with three significant digits or all of its whole part, without zeros that say
/// nothing.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let decimals = if magnitude == 0.0 || magnitude >= 100.0 {
        0
    } else {
        (2 - magnitude.log10().floor() as i32).clamp(0, 9) as usize
    };
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(linear_ticks(0.0, 97.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(linear_ticks(3.0, 3.0, 5), [3.0]);
        assert_eq!(log_ticks(4.0, 60.0), [5.0, 10.0, 20.0, 50.0]);
        // A narrow range still has ticks to read it by.
        assert!(log_ticks(5.2, 6.8).len() >= 3);
        for (low, high) in [(0.001, 0.0011), (1.0, 1e6), (0.3, 900.0)] {
            let ticks = log_ticks(low, high);
            assert!((3..=9).contains(&ticks.len()), "{low}..{high}: {ticks:?}");
        }
    }

    #[test]
    fn labels_of_whole_values_keep_their_distance_and_both_ends() {
        let shares: Vec<u32> = (1..=80).collect();
        let scale = Scale::new(Spread::Linear, (1.0, 80.0), (0.0, 790.0));
        let ticks = whole_ticks(&shares, &scale, 45.0);
        assert_eq!(ticks, [1, 10, 20, 30, 40, 50, 60, 70, 80]);
        let odd: Vec<u32> = (1..=77).collect();
        let ticks = whole_ticks(&odd, &scale, 45.0);
        assert_eq!((ticks.first(), ticks.last()), (Some(&1), Some(&77)));
        assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] >= 5));
        assert_eq!(whole_ticks(&[1, 2], &scale, 0.1), [1, 2]);
        assert!(whole_ticks(&[], &scale, 1.0).is_empty());
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.05, "0.05"),
            (1.234, "1.23"),
            (2.0, "2"),
            (45.67, "45.7"),
            (100.0, "100"),
            (1234.5, "1234"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn equal_ratios_are_equally_far_apart_on_a_log_scale() {
        let scale = Scale::new(Spread::Log, (1.0, 16.0), (100.0, 500.0));
        let pixels = [1.0, 2.0, 4.0, 8.0, 16.0].map(|value| scale.at(value).round());
        assert_eq!(pixels, [100.0, 200.0, 300.0, 400.0, 500.0]);
    }
}
