//! What all charts share: title and origin on the page, axes, palettes, labels that do not
//! lie on each other.

use super::canvas::{
    Anchor, Canvas, FAINT, GREY, HEIGHT, INK, Point, Stroke, Style, WIDTH, fitted, width_of,
};
use fugato_core::profile::Profile;

/// The part of the page that holds data, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

pub(super) const MARGIN: f64 = 56.0;
const LABEL: f64 = 17.0;

/// The colours of the knee's definitions and of the two optima: the same on all charts.
pub(super) const WORK: &str = "#111827";
pub(super) const EFFICACY: &str = "#c2760c";
pub(super) const TOLERANCE: &str = "#c0304a";
pub(super) const CHORD: &str = "#2f7d4f";

/// Told apart also by those who see no red and green.
pub(super) const MODELS: [&str; 10] = [
    "#3b6fb6", "#d9822b", "#2a9d8f", "#b5446e", "#6a5acd", "#8a6d3b", "#4b8b3b", "#c0504d",
    "#5f9ea0", "#555b66",
];

/// The colour of the `index`th model of a profile.
pub(super) fn model_colour(index: usize) -> &'static str {
    MODELS[index % MODELS.len()]
}

/// The colour of the `index`th of `count` values in order: light to dark.
pub(super) fn ordered_colour(index: usize, count: usize) -> String {
    let part = if count < 2 {
        0.7
    } else {
        index as f64 / (count - 1) as f64
    };
    blend(
        &[[78, 172, 172], [62, 142, 186], [52, 84, 158], [44, 28, 92]],
        part,
    )
}

/// The colour of a share of the best, from 0 (far from it) to 1 (it).
pub(super) fn heat_colour(part: f64) -> String {
    blend(
        &[
            [243, 246, 249],
            [190, 221, 226],
            [98, 176, 187],
            [25, 116, 135],
        ],
        part,
    )
}

fn blend(stops: &[[u8; 3]], part: f64) -> String {
    let place = part.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let first = (place.floor() as usize).min(stops.len() - 2);
    let rest = place - first as f64;
    let mixed = |channel: usize| {
        let [from, to] = [stops[first], stops[first + 1]].map(|stop| f64::from(stop[channel]));
        (from + (to - from) * rest).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", mixed(0), mixed(1), mixed(2))
}

/// A page with its title, what it shows, and where its numbers come from.
pub(super) fn page(profile: &Profile, title: &str, subtitle: &str) -> Canvas {
    titled(title, subtitle, &origin(profile), profile.synthetic)
}

/// A page with its title, what it shows, and `origin`, in red where the numbers are not
/// measured.
pub(super) fn titled(title: &str, subtitle: &str, origin: &str, computed: bool) -> Canvas {
    let mut canvas = Canvas::new(&format!("{title}: {subtitle}"), origin);
    let room = WIDTH - 2.0 * MARGIN;
    let style = Style::plain(30.0, INK).bold();
    canvas.text((MARGIN, 54.0), &fitted(title, 30.0, room), style);
    let style = Style::plain(18.0, GREY);
    canvas.text((MARGIN, 82.0), &fitted(subtitle, 18.0, room), style);
    let colour = if computed { TOLERANCE } else { GREY };
    let text = fitted(origin, 14.0, room);
    canvas.text((MARGIN, HEIGHT - 18.0), &text, Style::plain(14.0, colour));
    canvas
}

/// Where the numbers come from: computed ones must not be taken for measured ones.
fn origin(profile: &Profile) -> String {
    let device = &profile.device;
    let slices = super::view::slices(device.slices);
    let kind = if profile.synthetic {
        "SYNTHETIC: computed from a model of parallelism, not measured"
    } else {
        "Measured"
    };
    let what = format!(
        "{} ({}), {slices}; {}",
        device.name, device.kind, profile.runtime
    );
    let limit = if device.slices <= 2 && !profile.synthetic {
        ". Two points show whether a second slice helps; they cannot prove a knee."
    } else {
        ""
    };
    format!("{kind}. {what}{limit}")
}

/// A second line at the foot of the page, for what must be said of this chart.
pub(super) fn note(canvas: &mut Canvas, text: &str) {
    let text = fitted(text, 14.0, WIDTH - 2.0 * MARGIN);
    canvas.text((MARGIN, HEIGHT - 40.0), &text, Style::plain(14.0, GREY));
}

/// An axis: its ticks in pixels with their labels, and its title with the unit.
pub(super) struct Axis<'a> {
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) title: &'a str,
}

/// Draws both axes of an area; grid lines lie only across, so that marks stand out.
pub(super) fn axes(canvas: &mut Canvas, area: Area, x: &Axis<'_>, y: &Axis<'_>) {
    let style = Style::plain(16.0, GREY);
    for (at, label) in &y.ticks {
        canvas.line(
            &[(area.left, *at), (area.right, *at)],
            Stroke::solid(FAINT, 1.0),
        );
        canvas.text(
            (area.left - 10.0, at + 5.5),
            label,
            style.anchored(Anchor::End),
        );
    }
    let floor = area.bottom;
    canvas.line(
        &[(area.left, floor), (area.right, floor)],
        Stroke::solid(GREY, 1.4),
    );
    for (at, label) in &x.ticks {
        canvas.line(
            &[(*at, floor), (*at, floor + 6.0)],
            Stroke::solid(GREY, 1.4),
        );
        canvas.text((*at, floor + 24.0), label, style.anchored(Anchor::Middle));
    }
    let style = Style::plain(LABEL, INK);
    canvas.text((area.left - 44.0, area.top - 20.0), y.title, style);
    // Below the axis's end, where no tick's label is.
    let end = (area.right, floor + 46.0);
    canvas.text(end, x.title, style.anchored(Anchor::End));
}

/// The size of the letters of labels at lines' ends.
pub(super) const END_LABEL: f64 = 16.0;

/// How far to the right of its line's end a label begins.
pub(super) const END_LABEL_APART: f64 = 20.0;

/// Labels to the right of their lines' ends, moved apart where they would lie on each
/// other, and kept beside the area.
pub(super) fn end_labels(canvas: &mut Canvas, area: Area, labels: &[(Point, String, String)]) {
    let apart = 21.0;
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|a, b| labels[*a].0.1.total_cmp(&labels[*b].0.1));
    let wanted: Vec<f64> = order.iter().map(|index| labels[*index].0.1).collect();
    let mut places = moved_apart(&wanted, apart);
    let mut floor = area.bottom - 6.0;
    for place in places.iter_mut().rev() {
        *place = place.min(floor);
        floor = *place - apart;
    }
    for (index, y) in order.iter().zip(places) {
        let ((x, end), text, colour) = &labels[*index];
        if (y - end).abs() > 3.0 {
            let ends = [(x + 6.0, *end), (x + 16.0, y)];
            canvas.line(&ends, Stroke::solid(FAINT, 1.2));
        }
        let style = Style::plain(END_LABEL, colour).bold();
        canvas.text((x + END_LABEL_APART, y + 5.5), text, style);
    }
}

/// Sorted places moved as little as it takes to be `apart`, groups about their middle.
fn moved_apart(wanted: &[f64], apart: f64) -> Vec<f64> {
    // Groups of (sum of wanted places, members), merged while they overlap.
    let mut groups: Vec<(f64, usize)> = Vec::new();
    let middle = |group: &(f64, usize)| group.0 / group.1 as f64;
    for place in wanted {
        let mut group = (*place, 1);
        while let Some(before) = groups.last() {
            let half = (before.1 + group.1) as f64 / 2.0 * apart;
            if middle(&group) - middle(before) >= half {
                break;
            }
            group = (group.0 + before.0, group.1 + before.1);
            groups.pop();
        }
        groups.push(group);
    }
    let mut places = Vec::with_capacity(wanted.len());
    for group in &groups {
        let first = middle(group) - (group.1 - 1) as f64 / 2.0 * apart;
        places.extend((0..group.1).map(|index| first + index as f64 * apart));
    }
    places
}

/// What a sign in a legend is.
pub(super) enum Sign<'a> {
    Mark(super::canvas::Mark<'a>),
    Bar(&'a str),
}

/// A row of signs with their meanings, ending at a point on the right.
pub(super) fn legend(canvas: &mut Canvas, end: Point, entries: &[(Sign<'_>, &str)]) {
    let size = 15.0;
    let mut x = end.0;
    for (sign, text) in entries.iter().rev() {
        x -= width_of(text, size);
        canvas.text((x, end.1), text, Style::plain(size, GREY));
        x -= 18.0;
        let middle = end.1 - 5.0;
        match sign {
            Sign::Mark(mark) => canvas.mark((x, middle), *mark, None),
            Sign::Bar(colour) => {
                canvas.line(
                    &[(x, middle - 8.0), (x, middle + 8.0)],
                    Stroke::solid(colour, 2.0),
                );
            }
        }
        x -= 34.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_move_apart_and_stay_about_their_middle() {
        assert_eq!(moved_apart(&[10.0, 50.0], 20.0), [10.0, 50.0]);
        assert_eq!(moved_apart(&[10.0, 10.0], 20.0), [0.0, 20.0]);
        let places = moved_apart(&[100.0, 101.0, 102.0, 125.0], 20.0);
        assert!(
            places.windows(2).all(|pair| pair[1] - pair[0] >= 19.999),
            "{places:?}"
        );
        let mean = places.iter().sum::<f64>() / 4.0;
        assert!((mean - 107.0).abs() < 1e-9, "{places:?}");
        assert!(moved_apart(&[], 20.0).is_empty());
    }

    #[test]
    fn colours_run_from_end_to_end() {
        assert_eq!(heat_colour(0.0), "#f3f6f9");
        assert_eq!(heat_colour(1.0), "#197487");
        assert_eq!(heat_colour(7.0), heat_colour(1.0));
    }
}
