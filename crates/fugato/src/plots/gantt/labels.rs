//! The numbers in the boxes, and the bars of legs that have no slice alone.

use crate::plots::canvas::{Anchor, Canvas, INK, Point, Style, WHITE, width_of};
use fugato_core::ModelId;

/// The largest and the smallest number in a box.
const LABEL: (f64, f64) = (17.0, 8.0);

/// What tells a leg from those that it shares its slices with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) model: ModelId,
    pub(super) at: Point,
    pub(super) size: Point,
}

impl Bar {
    pub(super) fn is_clear_of(&self, other: &Self) -> bool {
        let before = |a: f64, length: f64, b: f64| a + length <= b + 0.1;
        before(self.at.0, self.size.0, other.at.0)
            || before(other.at.0, other.size.0, self.at.0)
            || before(self.at.1, self.size.1, other.at.1)
            || before(other.at.1, other.size.1, self.at.1)
    }
}

/// A number that could stand in a box.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    size: f64,
    /// The width that there is.
    room: f64,
    middle: Point,
}

impl Label {
    pub(super) fn within((left, top): Point, (width, height): Point) -> Self {
        Self {
            size: (height * 0.62).clamp(0.0, LABEL.0),
            room: width,
            middle: (left + width / 2.0, top + height / 2.0),
        }
    }

    pub(super) fn fits(&self, text: &str) -> bool {
        self.size >= LABEL.1 && width_of(text, self.size) + 4.0 <= self.room
    }

    pub(super) fn beats(&self, other: &Self) -> bool {
        self.size * self.room > other.size * other.room
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, text: &str, colour: &str) {
        let (x, y) = self.middle;
        let style = Style::plain(self.size, ink_on(colour))
            .anchored(Anchor::Middle)
            .bold();
        canvas.text((x, y + self.size * 0.36), text, style);
    }
}

/// Black or white, whichever is read better on a colour given as `#rrggbb`.
pub(super) fn ink_on(colour: &str) -> &'static str {
    let channel = |from: usize| {
        let hex = colour.get(from..from + 2).unwrap_or("00");
        f64::from(u8::from_str_radix(hex, 16).unwrap_or(0)) / 255.0
    };
    let light = 0.2126 * channel(1).powf(2.2)
        + 0.7152 * channel(3).powf(2.2)
        + 0.0722 * channel(5).powf(2.2);
    if light > 0.3 { INK } else { WHITE }
}
