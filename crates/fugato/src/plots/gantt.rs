//! Space and time: which slices each leg had, and when. What is white between the boxes is
//! what nobody used.

use super::Chart;
use super::canvas::{Anchor, Canvas, FAINT, GREY, HEIGHT, INK, Stroke, Style, WHITE, WIDTH};
use super::canvas::{fitted, width_of};
use super::frame::{MARGIN, model_colour, note, titled};
use super::scale::{Scale, Spread, linear_ticks, number};
use super::view::{slices, time};
use crate::timeline::{Rows, Scene};
use fugato_core::device::DeviceSpec;
use fugato_core::timeline::TimelineLeg;
use fugato_core::{DeviceId, ModelId, Nanos, Timestamp};
use std::collections::BTreeMap;
use std::ops::Range;

/// More boxes than this are a grey wall: the picture then ends where the next would begin.
const LEGS_MAX: usize = 400;

const LEFT: f64 = MARGIN + 74.0;
const RIGHT: f64 = WIDTH - MARGIN;
const TOP: f64 = 146.0;
const BOTTOM: f64 = HEIGHT - 112.0;
/// Pixels between two devices.
const GAP: f64 = 22.0;
/// Pixels left free around a box, so that neighbours are told apart.
const INSET: f64 = 0.8;

/// Draws the legs that ran within `window` (or as many as can be read, from the first on):
/// slices go up, time goes right, a box is a leg of a model's colour with its batch in it.
pub fn space_time(scene: &Scene<'_>, title: &str, window: Option<Range<Timestamp>>) -> Chart {
    let mut legs = scene.in_order();
    let whole = span(&legs);
    let window = window.unwrap_or(whole.clone());
    legs.retain(|leg| leg.ended > window.start && leg.started < window.end);
    let end = match legs.get(LEGS_MAX) {
        Some(next) => next.started.max(window.start + Nanos::new(1)),
        None => window.end,
    };
    legs.retain(|leg| leg.started < end);
    let picture = Picture::new(scene, &legs, window.start..end);
    let (shown, all) = (end - window.start, whole.end - whole.start);
    let part = if shown < all {
        format!("; {shown} of {all}")
    } else {
        String::new()
    };
    let origin = if scene.simulated {
        format!("SIMULATED, not measured. {}", scene.what)
    } else {
        format!("Measured. {}", scene.what)
    };
    let subtitle = format!(
        "{} legs: which slices each had, and when. In a box: items of the batch{part}",
        legs.len()
    );
    let mut canvas = titled(title, &subtitle, &origin, scene.simulated);
    picture.grounds(&mut canvas);
    picture.time_axis(&mut canvas);
    for (leg, row) in &picture.placed {
        picture.leg(&mut canvas, leg, *row);
    }
    legend(&mut canvas, &picture.models);
    if scene.lost > 0 {
        let lost = format!("{} earlier legs were not kept", scene.lost);
        note(&mut canvas, &lost);
    }
    Chart {
        file: "space-time.svg".to_owned(),
        svg: canvas.finish(),
    }
}

/// From the first start to the last end.
fn span(legs: &[&TimelineLeg]) -> Range<Timestamp> {
    let start = legs.iter().map(|leg| leg.started).min();
    let end = legs.iter().map(|leg| leg.ended).max();
    start.unwrap_or_default()..end.unwrap_or_default()
}

/// Where a device's slices lie on the page.
struct Band<'a> {
    spec: &'a DeviceSpec,
    bottom: f64,
    slice: f64,
}

struct Picture<'a> {
    window: Range<Timestamp>,
    x: Scale,
    bands: BTreeMap<DeviceId, Band<'a>>,
    placed: Vec<(&'a TimelineLeg, u16)>,
    /// The most legs that any slice of a device holds at once.
    depth: BTreeMap<DeviceId, u16>,
    models: Vec<(ModelId, String)>,
}

impl<'a> Picture<'a> {
    fn new(scene: &Scene<'a>, legs: &[&'a TimelineLeg], window: Range<Timestamp>) -> Self {
        let mut rows = Rows::default();
        let placed: Vec<_> = legs.iter().map(|leg| (*leg, rows.place(leg))).collect();
        let mut depth = BTreeMap::new();
        for (leg, row) in &placed {
            let most = depth.entry(leg.device).or_insert(1);
            *most = (*most).max(row + 1);
        }
        let slices: u16 = scene.devices.iter().map(|device| device.slices.0).sum();
        let gaps = GAP * scene.devices.len().saturating_sub(1) as f64;
        let slice = (BOTTOM - TOP - gaps) / f64::from(slices.max(1));
        let mut bottom = BOTTOM;
        let mut bands = BTreeMap::new();
        // The first device is the lowest, as the first slice is.
        for spec in scene.devices {
            let band = Band {
                spec,
                bottom,
                slice,
            };
            bottom -= slice * f64::from(spec.slices.0) + GAP;
            bands.insert(spec.id, band);
        }
        let length = (window.end - window.start).as_millis_f64();
        Self {
            x: Scale::new(Spread::Linear, (0.0, length), (LEFT, RIGHT)),
            window,
            bands,
            placed,
            depth,
            models: scene.models_that_ran(),
        }
    }

    /// The pixel of a time, inside the picture.
    fn at(&self, time: Timestamp) -> f64 {
        let time = time.clamp(self.window.start, self.window.end);
        self.x.at((time - self.window.start).as_millis_f64())
    }

    /// What is behind the legs of each device: its slices, all idle.
    fn grounds(&self, canvas: &mut Canvas) {
        for band in self.bands.values() {
            let count = band.spec.slices.0;
            let top = band.bottom - band.slice * f64::from(count);
            canvas.rect(
                (LEFT, top),
                (RIGHT - LEFT, band.bottom - top),
                "#f6f7f9",
                None,
            );
            if band.slice >= 6.0 {
                for atom in 1..count {
                    let y = band.bottom - band.slice * f64::from(atom);
                    canvas.line(&[(LEFT, y), (RIGHT, y)], Stroke::solid(FAINT, 1.0));
                }
            }
            let style = Style::plain(14.0, GREY).anchored(Anchor::End);
            let height = band.bottom - top;
            if count <= 16 && band.slice >= 15.0 {
                for atom in 0..count {
                    let y = band.bottom - band.slice * (f64::from(atom) + 0.5);
                    canvas.text((LEFT - 10.0, y + 5.0), &atom.to_string(), style);
                }
            } else {
                let wanted = (height / 60.0).clamp(1.0, 8.0) as u16;
                for tick in linear_ticks(0.0, f64::from(count), wanted) {
                    let y = band.bottom - band.slice * tick;
                    canvas.line(&[(LEFT - 5.0, y), (LEFT, y)], Stroke::solid(GREY, 1.0));
                    canvas.text((LEFT - 10.0, y + 5.0), &number(tick), style);
                }
            }
            if self.bands.len() > 1 {
                let style = Style::plain(14.0, INK).bold();
                let name = fitted(&band.spec.id.to_string(), 14.0, 80.0);
                canvas.text((MARGIN - 40.0, top + height / 2.0 + 5.0), &name, style);
            }
        }
        canvas.text((MARGIN - 2.0, TOP - 10.0), "slice", Style::plain(16.0, INK));
    }

    fn time_axis(&self, canvas: &mut Canvas) {
        let length = (self.window.end - self.window.start).as_millis_f64();
        let axis = [(LEFT, BOTTOM), (RIGHT, BOTTOM)];
        canvas.line(&axis, Stroke::solid(GREY, 1.4));
        let style = Style::plain(15.0, GREY).anchored(Anchor::Middle);
        for tick in linear_ticks(0.0, length, 10) {
            let x = self.x.at(tick);
            canvas.line(&[(x, BOTTOM), (x, BOTTOM + 6.0)], Stroke::solid(GREY, 1.4));
            canvas.text((x, BOTTOM + 22.0), &number(tick), style);
        }
        let from = (self.window.start - Timestamp::ZERO).as_secs_f64();
        let title = if from > 0.0 {
            format!("ms from {}", time(from))
        } else {
            "time, ms".to_owned()
        };
        let style = Style::plain(16.0, INK).anchored(Anchor::End);
        canvas.text((RIGHT, BOTTOM + 46.0), &title, style);
    }

    fn leg(&self, canvas: &mut Canvas, leg: &TimelineLeg, row: u16) {
        let Some(band) = self.bands.get(&leg.device) else {
            return;
        };
        let depth = f64::from(self.depth.get(&leg.device).copied().unwrap_or(1));
        let (left, right) = (self.at(leg.started), self.at(leg.ended));
        let width = (right - left - INSET).max(0.5);
        let colour = self.colour(leg.model);
        let hint = self.hint(leg);
        let runs = runs(leg);
        let tallest = runs.iter().map(|run| run.len()).max();
        let mut written = false;
        for run in &runs {
            let tall = band.slice * run.len() as f64;
            // Legs at once on a slice lie above each other in it.
            let row_height = tall / depth;
            let top = band.bottom
                - band.slice * f64::from(run.start)
                - row_height
                - row_height * f64::from(row);
            let height = (row_height - 2.0 * INSET).max(0.5);
            canvas.rect((left, top + INSET), (width, height), colour, Some(&hint));
            if written || Some(run.len()) != tallest {
                continue;
            }
            written = true;
            let text = leg.batch.0.to_string();
            let size = (height * 0.62).clamp(0.0, 17.0);
            if size >= 8.0 && width_of(&text, size) + 4.0 <= width {
                let at = (left + width / 2.0, top + INSET + height / 2.0 + size * 0.36);
                let style = Style::plain(size, ink_on(colour))
                    .anchored(Anchor::Middle)
                    .bold();
                canvas.text(at, &text, style);
            }
        }
    }

    fn colour(&self, model: ModelId) -> &'static str {
        let index = self.models.binary_search_by_key(&model, |(id, _)| *id);
        model_colour(index.unwrap_or(0))
    }

    fn hint(&self, leg: &TimelineLeg) -> String {
        let name = self.models.iter().find(|(id, _)| *id == leg.model);
        let name = name.map_or("", |(_, name)| name.as_str());
        let predicted = match leg.predicted {
            Some(predicted) => format!(" (predicted {predicted})"),
            None => String::new(),
        };
        format!(
            "{name}, {} {}: batch {} on {}, {}{predicted}, from {}",
            leg.task,
            leg.leg,
            leg.batch.0,
            slices(leg.share.0),
            leg.length(),
            leg.started
        )
    }
}

/// The slices of a leg as ranges without gaps.
fn runs(leg: &TimelineLeg) -> Vec<Range<u16>> {
    let mut runs: Vec<Range<u16>> = Vec::new();
    for atom in leg.atoms.iter() {
        match runs.last_mut() {
            Some(run) if run.end == atom => run.end += 1,
            _ => runs.push(atom..atom + 1),
        }
    }
    runs
}

/// Black or white, whichever is read better on a colour given as `#rrggbb`.
fn ink_on(colour: &str) -> &'static str {
    let channel = |from: usize| {
        let hex = colour.get(from..from + 2).unwrap_or("00");
        f64::from(u8::from_str_radix(hex, 16).unwrap_or(0)) / 255.0
    };
    let light = 0.2126 * channel(1).powf(2.2)
        + 0.7152 * channel(3).powf(2.2)
        + 0.0722 * channel(5).powf(2.2);
    if light > 0.3 { INK } else { WHITE }
}

/// The models' colours, in rows under the subtitle.
fn legend(canvas: &mut Canvas, models: &[(ModelId, String)]) {
    let size = 15.0;
    let mut x = LEFT;
    let mut shown = 0;
    for (index, (_, name)) in models.iter().enumerate() {
        let name = fitted(name, size, 190.0);
        let width = width_of(&name, size) + 46.0;
        if x + width > RIGHT - 90.0 {
            break;
        }
        canvas.rect((x, 101.0), (16.0, 16.0), model_colour(index), None);
        canvas.text((x + 23.0, 114.0), &name, Style::plain(size, INK));
        x += width;
        shown = index + 1;
    }
    if shown < models.len() {
        let rest = format!("and {} more", models.len() - shown);
        canvas.text((x, 114.0), &rest, Style::plain(size, GREY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::tests::{device, exclusive, leg};
    use roxmltree::Document;

    fn draw(slices: u16, legs: &[TimelineLeg], window: Option<Range<Timestamp>>) -> String {
        let devices = [device(0, slices)];
        let models = BTreeMap::from([(ModelId(1), "<b>&\"alexnet\"".to_owned())]);
        let scene = Scene {
            simulated: true,
            what: "four models, saturated",
            devices: &devices,
            models: &models,
            legs,
            lost: 0,
        };
        space_time(&scene, "temporal", window).svg
    }

    /// Boxes with a hint, by their corners.
    fn boxes(svg: &str) -> Vec<[f64; 4]> {
        let document = Document::parse(svg).expect("well-formed XML");
        let rects = document.descendants().filter(|node| {
            let hinted = node.children().any(|child| child.has_tag_name("title"));
            node.has_tag_name("rect") && hinted
        });
        let number = |node: roxmltree::Node<'_, '_>, name| -> f64 {
            node.attribute(name)
                .expect("there")
                .parse()
                .expect("a number")
        };
        rects
            .map(|node| {
                let [x, y] = ["x", "y"].map(|name| number(node, name));
                let [width, height] = ["width", "height"].map(|name| number(node, name));
                [x, y, x + width, y + height]
            })
            .collect()
    }

    #[test]
    fn boxes_of_exclusive_legs_lie_on_the_page_and_apart() {
        for slices in [8, 80] {
            let boxes = boxes(&draw(slices, &exclusive(slices, 120), None));
            assert_eq!(boxes.len(), 120);
            for (index, one) in boxes.iter().enumerate() {
                assert!(one[0] >= LEFT - 0.1 && one[2] <= RIGHT + 0.6, "{one:?}");
                assert!(one[1] >= TOP && one[3] <= BOTTOM + 0.1, "{one:?}");
                let touches = |other: &&[f64; 4]| {
                    one[0] + 0.2 < other[2]
                        && other[0] + 0.2 < one[2]
                        && one[1] + 0.2 < other[3]
                        && other[1] + 0.2 < one[3]
                };
                let touched = boxes[index + 1..].iter().find(touches);
                assert_eq!(touched, None, "{one:?}");
            }
        }
    }

    #[test]
    fn slices_go_up_and_scattered_slices_are_several_boxes() {
        let low = leg(0, (0, 1), (0, 1_000));
        let mut scattered = leg(1, (3, 1), (0, 1_000));
        scattered.atoms = scattered.atoms.union(leg(1, (1, 1), (0, 1)).atoms);
        let svg = draw(4, &[low, scattered], None);
        let boxes = boxes(&svg);
        assert_eq!(boxes.len(), 3);
        assert!(boxes[0][1] > boxes[1][1] && boxes[1][1] > boxes[2][1]);
        assert!(svg.contains("SIMULATED") && svg.contains("&lt;b&gt;&amp;"));
    }

    #[test]
    fn a_window_cuts_what_is_outside_it_and_says_so() {
        let legs = exclusive(8, 200);
        let window = Timestamp::from_nanos(20_000)..Timestamp::from_nanos(40_000);
        let svg = draw(8, &legs, Some(window));
        let inside = boxes(&svg).len();
        assert!((1..200).contains(&inside), "{inside}");
        assert!(svg.contains("20.0 us of "), "the part that is shown");
        let crowded = exclusive(8, 4_000);
        assert!(boxes(&draw(8, &crowded, None)).len() <= LEGS_MAX);
        let none = draw(4, &[], None);
        assert!(boxes(&none).is_empty());
    }

    #[test]
    fn text_is_legible_on_every_colour() {
        assert_eq!(ink_on("#ffffff"), INK);
        assert_eq!(ink_on("#3b6fb6"), WHITE);
    }
}
