//! Space and time: which slices each leg had, and when. What is left blank is what nobody
//! held.
//!
//! **Invariant:** a leg's boxes cover its slices and its time and nothing else. Where legs had
//! a slice at once, it is striped in their colours; a leg that had none alone is told from
//! the others by a bar over its time.

mod labels;
mod regions;
#[cfg(test)]
mod tests;

use super::Chart;
use super::canvas::{Anchor, Canvas, FAINT, GREY, HEIGHT, INK, Point, Stroke, Style, WHITE, WIDTH};
use super::canvas::{fitted, width_of};
use super::frame::{MARGIN, model_colour, note, titled};
use super::scale::{Scale, Spread, linear_ticks, number};
use super::view::{slices, time};
use crate::timeline::{Scene, leg_name};
use fugato_core::device::DeviceSpec;
use fugato_core::timeline::TimelineLeg;
use fugato_core::{DeviceId, ModelId, Nanos, Timestamp};
use labels::{Bar, Label};
use regions::{Region, regions};
use std::collections::{BTreeMap, BTreeSet};
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
/// The height of the bar of a leg that has no slice alone.
const BAR: f64 = 20.0;

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
    let shared = picture.regions.iter().any(|region| region.legs.len() > 1);
    let stripes = if shared {
        "; stripes: slices shared"
    } else {
        ""
    };
    let subtitle = format!(
        "{} legs: which slices each had, and when. In a box: items of the batch{stripes}{part}",
        legs.len()
    );
    let mut canvas = titled(title, &subtitle, &origin, scene.simulated);
    picture.grounds(&mut canvas);
    picture.time_axis(&mut canvas);
    picture.boxes(&mut canvas);
    legend(&mut canvas, &picture.models);
    let mut said = format!("Held in this picture: {:.0} %", 100.0 * picture.held());
    if scene.lost > 0 {
        said += &format!("; {} earlier legs were not kept", scene.lost);
    }
    note(&mut canvas, &said);
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
    legs: &'a [&'a TimelineLeg],
    regions: Vec<Region>,
    models: Vec<(ModelId, String)>,
}

impl<'a> Picture<'a> {
    fn new(scene: &Scene<'a>, legs: &'a [&'a TimelineLeg], window: Range<Timestamp>) -> Self {
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
            regions: regions(legs, &window),
            window,
            bands,
            legs,
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

    /// The part of all slices and of the time shown that some leg had.
    fn held(&self) -> f64 {
        let slices = self.bands.values().map(|band| band.spec.slices.0);
        let slices: f64 = slices.map(f64::from).sum();
        let all = slices * (self.window.end - self.window.start).as_nanos() as f64;
        let known = |region: &&Region| self.bands.contains_key(&region.device);
        let held: f64 = self.regions.iter().filter(known).map(Region::area).sum();
        if all > 0.0 { held / all } else { 0.0 }
    }

    /// A rectangle on the page from its slices and its time: corner at the top left, and size.
    fn place(
        &self,
        device: DeviceId,
        atoms: &Range<u16>,
        time: &Range<Timestamp>,
    ) -> Option<(Point, Point)> {
        let band = self.bands.get(&device)?;
        let (left, right) = (self.at(time.start), self.at(time.end));
        let top = band.bottom - band.slice * f64::from(atoms.end);
        let height = band.slice * atoms.len() as f64;
        Some(((left, top), (right - left, height)))
    }

    fn boxes(&self, canvas: &mut Canvas) {
        for leg in self.legs {
            let colour = self.colour(leg.model);
            let hint = self.hint(leg);
            for ((left, top), (width, height)) in self.own(leg) {
                let size = (width - INSET, height - 2.0 * INSET);
                let size = (size.0.max(0.5), size.1.max(0.5));
                canvas.rect((left, top + INSET), size, colour, Some(&hint));
            }
        }
        let shared = || self.regions.iter().filter(|region| region.legs.len() > 1);
        for region in shared() {
            let legs = region.legs.iter().map(|&leg| self.legs[leg]);
            let colours: Vec<&str> = legs.clone().map(|leg| self.colour(leg.model)).collect();
            let fill = canvas.stripes(&colours);
            let hints: Vec<String> = legs.map(|leg| self.hint(leg)).collect();
            if let Some((at, size)) = self.place(region.device, &region.atoms, &region.time) {
                canvas.rect(at, size, &fill, Some(&hints.join("\n")));
            }
        }
        // Where each begins and ends is seen through the stripes too.
        let sharing: BTreeSet<usize> = shared().flat_map(|region| region.legs.clone()).collect();
        for &leg in &sharing {
            for (at, size) in self.own(self.legs[leg]) {
                canvas.outline(at, size, Stroke::solid(WHITE, 2.0 * INSET));
            }
        }
        self.labels(canvas, sharing);
    }

    /// Where a leg's slices without gaps between them lie.
    fn own(&self, leg: &TimelineLeg) -> impl Iterator<Item = (Point, Point)> {
        let time = leg.started..leg.ended;
        runs(leg)
            .into_iter()
            .filter_map(move |atoms| self.place(leg.device, &atoms, &time))
    }

    /// Writes the batch of each leg that has slices alone for some time where it has most room.
    /// Each of the others has a bar from its start to its end, apart from other bars.
    fn labels(&self, canvas: &mut Canvas, sharing: BTreeSet<usize>) {
        let mut best: BTreeMap<usize, Label> = BTreeMap::new();
        for region in &self.regions {
            let (&[leg], Some((at, size))) = (
                &*region.legs,
                self.place(region.device, &region.atoms, &region.time),
            ) else {
                continue;
            };
            let label = Label::within(at, size);
            if label.fits(&self.text(leg)) && best.get(&leg).is_none_or(|other| label.beats(other))
            {
                best.insert(leg, label);
            }
        }
        let mut bars = Vec::new();
        for leg in sharing {
            if best.contains_key(&leg) {
                continue;
            }
            if let Some(bar) = self.bar(leg, &bars) {
                let Bar { model, at, size } = bar;
                let colour = self.colour(model);
                canvas.rect(at, size, colour, Some(&self.hint(self.legs[leg])));
                canvas.outline(at, size, Stroke::solid(WHITE, 1.5 * INSET));
                bars.push(bar);
                let label = Label::within(at, size);
                if label.fits(&self.text(leg)) {
                    best.insert(leg, label);
                }
            }
        }
        for (leg, label) in best {
            label.draw(canvas, &self.text(leg), self.colour(self.legs[leg].model));
        }
    }

    /// Where the bar of a leg goes: within its slices, clear of those that there are, and at the
    /// height of its model's last one if it can be.
    fn bar(&self, leg: usize, bars: &[Bar]) -> Option<Bar> {
        let own = self.own(self.legs[leg]);
        let taller = |one: &(Point, Point), other: &(Point, Point)| one.1.1.total_cmp(&other.1.1);
        let ((left, top), (width, height)) = own.max_by(taller)?;
        let model = self.legs[leg].model;
        let size = (width, BAR.min(0.6 * height));
        let before = bars.iter().rev().find(|bar| bar.model == model);
        let before = before
            .map(|bar| bar.at.1)
            .filter(|at| *at >= top && at + size.1 <= top + height);
        let sharing = self.regions.iter();
        let sharing = sharing.filter(|region| region.legs.contains(&leg));
        let depth = sharing.map(|region| region.legs.len()).max().unwrap_or(1);
        // As many rows as legs share the slices at once; more where bars of others are there.
        let rows = (0..3).flat_map(|finer| {
            let count = depth << finer;
            (0..count).map(move |row| (row as f64 + 0.5) / count as f64)
        });
        let rows = rows.map(|part| top + height * part - size.1 / 2.0);
        let mut places = before.into_iter().chain(rows);
        let bar = |y| Bar {
            model,
            at: (left, y),
            size,
        };
        let clear = |y: &f64| bars.iter().all(|other| other.is_clear_of(&bar(*y)));
        let middle = top + (height - size.1) / 2.0;
        Some(bar(places.find(clear).unwrap_or(middle)))
    }

    fn text(&self, leg: usize) -> String {
        self.legs[leg].batch.0.to_string()
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
            leg_name(leg.leg, leg.unsplit),
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
