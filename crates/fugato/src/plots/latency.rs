//! Latency against share, a line for each batch, and where each definition puts the knee.

use super::canvas::{
    Anchor, Canvas, FAINT, GREY, HEIGHT, INK, Mark, Point, Shape, Stroke, Style, WIDTH, width_of,
};
use super::frame::{
    Area, Axis, MARGIN, Sign, axes, end_labels, legend, note, ordered_colour, page,
};
use super::marks::{self, KneeAt};
use super::scale::{Scale, Spread, log_ticks, number, whole_ticks};
use super::view::{Sample, View, slices, time};
use fugato_core::profile::Profile;

const AREA: Area = Area {
    left: MARGIN + 140.0,
    top: 138.0,
    right: WIDTH - 150.0,
    bottom: HEIGHT - 208.0,
};
/// The first of three rows below the axis, one for each definition.
const RAIL: f64 = AREA.bottom + 72.0;
const RAIL_STEP: f64 = 25.0;

/// Draws the chart of one model.
pub(super) fn chart(profile: &Profile, view: &View<'_>) -> String {
    let batch = view.knee_batch();
    let subtitle = format!(
        "Latency against share of the device; the knee at batch {batch}, by three definitions"
    );
    let mut canvas = page(profile, &view.title(), &subtitle);
    let unit = Unit::of(view);
    let x = share_scale(view, (AREA.left, AREA.right));
    let y = unit.scale(view, (AREA.bottom, AREA.top));
    let ticks = unit.ticks(view).into_iter();
    let y_axis = Axis {
        ticks: ticks.map(|tick| (y.at(tick), number(tick))).collect(),
        title: unit.title,
    };
    axes(&mut canvas, AREA, &share_axis(view, &x), &y_axis);
    knees(&mut canvas, view, &x, |seconds| y.at(unit.of_time(seconds)));
    let aside = beside(view, &x);
    let place = |sample: &Sample<'_>, seconds: f64| -> Point {
        let busy = sample.point.neighbours > 0;
        let share = x.at(f64::from(sample.point.share));
        (
            share + if busy { aside } else { 0.0 },
            y.at(unit.of_time(seconds)),
        )
    };
    let batches = view.batches();
    let mut labels = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        let colour = ordered_colour(index, batches.len());
        for (samples, stroke) in [
            (view.busy(*batch), Stroke::dashed(&colour, 2.0)),
            (view.alone(*batch), Stroke::solid(&colour, 2.6)),
        ] {
            curve(&mut canvas, &samples, stroke, &place);
        }
        if let Some(last) = view.alone(*batch).last() {
            let (x, y) = place(last, last.times.median_s);
            labels.push(((x + aside, y), format!("batch {batch}"), colour));
        }
    }
    end_labels(&mut canvas, AREA, &labels);
    published(&mut canvas, view, |share, seconds| {
        (x.at(share), y.at(unit.of_time(seconds)))
    });
    signs(&mut canvas, view);
    failures(&mut canvas, view);
    canvas.finish()
}

/// A line through the medians, with the interval and a mark at each point.
fn curve(
    canvas: &mut Canvas,
    samples: &[Sample<'_>],
    stroke: Stroke<'_>,
    place: &impl Fn(&Sample<'_>, f64) -> Point,
) {
    let medians: Vec<Point> = samples
        .iter()
        .map(|sample| place(sample, sample.times.median_s))
        .collect();
    canvas.line(&medians, stroke);
    for (sample, at) in samples.iter().zip(&medians) {
        let ends = [sample.times.low_s, sample.times.high_s];
        if ends[0] < ends[1] {
            let ends = ends.map(|end| place(sample, end));
            canvas.line(&ends, Stroke::solid(stroke.colour, 2.0));
        }
        let busy = sample.point.neighbours > 0;
        if let Some(mark) = marks::dot(stroke.colour, busy, samples.len()) {
            canvas.mark(*at, mark, Some(&sample.hint()));
        }
    }
}

/// What a publication states of the model, beside the curves.
fn published(canvas: &mut Canvas, view: &View<'_>, place: impl Fn(f64, f64) -> Point) {
    let Some(stated) = &view.model.published else {
        return;
    };
    let mark = Mark {
        shape: Shape::Cross,
        radius: 6.0,
        colour: INK,
        hollow: true,
    };
    let (share, latency) = (slices(stated.share), time(stated.latency_s));
    let at = place(f64::from(stated.share), stated.latency_s);
    canvas.mark(at, mark, Some(&stated.source));
    let (source, batch) = (&stated.source, stated.batch);
    let text = format!("Plus: as published ({source}), batch {batch} on {share}, {latency}");
    note(canvas, &text);
}

/// The shares of the model on a page.
pub(super) fn share_scale(view: &View<'_>, pixels: (f64, f64)) -> Scale {
    let shares = view.shares();
    let first = shares.first().copied().map_or(1.0, f64::from);
    let last = shares.last().copied().map_or(1.0, f64::from);
    let pad = ((last - first) * 0.03).max(0.5);
    Scale::new(Spread::Linear, (first - pad, last + pad), pixels)
}

/// Ticks only at shares that were measured: there is nothing between slices.
pub(super) fn share_axis<'a>(view: &View<'_>, x: &Scale) -> Axis<'a> {
    let shares: Vec<u32> = view.shares().into_iter().map(u32::from).collect();
    let kept = whole_ticks(&shares, x, 42.0);
    let ticks = kept
        .iter()
        .map(|share| (x.at(f64::from(*share)), share.to_string()));
    Axis {
        ticks: ticks.collect(),
        title: "share, slices",
    }
}

/// How far beside the points measured alone those with busy neighbours are drawn: enough
/// not to lie on them where there is room, and nothing on a fine axis.
pub(super) fn beside(view: &View<'_>, x: &Scale) -> f64 {
    let shares = view.shares();
    let gaps = shares
        .windows(2)
        .map(|pair| x.at(f64::from(pair[1])) - x.at(f64::from(pair[0])));
    let room = gaps.fold(f64::INFINITY, f64::min);
    if room > 120.0 { 18.0 } else { 0.0 }
}

/// The unit that a model's latencies are read in.
struct Unit {
    factor: f64,
    title: &'static str,
}

impl Unit {
    fn of(view: &View<'_>) -> Self {
        let most = view
            .samples()
            .map(|sample| sample.times.median_s)
            .fold(0.0, f64::max);
        if most < 1e-3 {
            return Self {
                factor: 1e6,
                title: "latency, \u{b5}s (log scale)",
            };
        }
        Self {
            factor: 1e3,
            title: "latency, ms (log scale)",
        }
    }

    fn of_time(&self, seconds: f64) -> f64 {
        seconds * self.factor
    }

    fn ends(&self, view: &View<'_>) -> (f64, f64) {
        let lows = view.samples().map(|sample| sample.times.low_s);
        let highs = view.samples().map(|sample| sample.times.high_s);
        let low = lows.fold(f64::INFINITY, f64::min);
        let high = highs.fold(0.0, f64::max);
        (self.of_time(low * 0.88), self.of_time(high * 1.12))
    }

    fn scale(&self, view: &View<'_>, pixels: (f64, f64)) -> Scale {
        Scale::new(Spread::Log, self.ends(view), pixels)
    }

    fn ticks(&self, view: &View<'_>) -> Vec<f64> {
        let (low, high) = self.ends(view);
        log_ticks(low, high)
    }
}

/// A row below the axis for each definition: its mark at its share, a line up, and a ring
/// about the point that it is read at.
fn knees(canvas: &mut Canvas, view: &View<'_>, x: &Scale, y: impl Fn(f64) -> f64) {
    let knees = marks::knees(view.model);
    for (row, knee) in knees.iter().enumerate() {
        let height = RAIL + row as f64 * RAIL_STEP;
        let style = Style::plain(16.0, knee.mark.colour).anchored(Anchor::End);
        let title = format!("knee, {}", knee.name);
        canvas.text((AREA.left - 12.0, height + 5.5), &title, style);
        let Some(share) = knee.share else {
            let at = (AREA.left + 4.0, height + 5.5);
            canvas.text(at, "too few shares to tell", Style::plain(16.0, GREY));
            continue;
        };
        let at = x.at(f64::from(share));
        let rail = [(AREA.left, height), (at, height)];
        canvas.line(&rail, Stroke::solid(FAINT, 1.0));
        // Lines of definitions that agree run side by side.
        let agree = |other: &&KneeAt| other.share == knee.share;
        let aside = knees[..row].iter().filter(agree).count() as f64 * 3.0;
        let ends = [AREA.bottom, AREA.top].map(|end| (at + aside, end));
        canvas.line(&ends, Stroke::dashed(knee.mark.colour, 1.8));
        if let Some(sample) = view.at(view.knee_batch(), share) {
            let ring = Mark {
                shape: Shape::Circle,
                radius: 8.0,
                colour: knee.mark.colour,
                hollow: true,
            };
            canvas.mark((at, y(sample.times.median_s)), ring, Some(knee.meaning));
        }
        canvas.mark((at, height), knee.mark, Some(knee.meaning));
        share_of_knee(canvas, (at, height), share, knee.undecided);
    }
}

/// The knee in words, to that side of its mark where there is room.
fn share_of_knee(canvas: &mut Canvas, at: Point, share: u16, undecided: bool) {
    let mut text = slices(share);
    if undecided {
        text.push_str(", undecided: intervals overlap");
    }
    let fits = at.0 + 16.0 + width_of(&text, 16.0) < WIDTH - MARGIN;
    let (x, anchor) = if fits {
        (at.0 + 16.0, Anchor::Start)
    } else {
        (at.0 - 16.0, Anchor::End)
    };
    let style = Style::plain(16.0, if undecided { GREY } else { INK });
    canvas.text((x, at.1 + 5.5), &text, style.anchored(anchor));
}

/// What the marks mean.
pub(super) fn signs(canvas: &mut Canvas, view: &View<'_>) {
    let dot = |hollow| {
        Sign::Mark(Mark {
            shape: Shape::Circle,
            radius: 5.5,
            colour: GREY,
            hollow,
        })
    };
    let mut entries = Vec::new();
    if view.has_busy() {
        entries.push((dot(false), "alone"));
        entries.push((dot(true), "other slices busy"));
    }
    let spread = |sample: Sample<'_>| sample.times.low_s < sample.times.high_s;
    if view.samples().any(spread) {
        entries.push((Sign::Bar(GREY), "95 % interval of the median"));
    }
    legend(canvas, (WIDTH - MARGIN, AREA.top - 20.0), &entries);
}

/// Says at the foot which points could not be measured.
fn failures(canvas: &mut Canvas, view: &View<'_>) {
    let Some(first) = view.failed.first() else {
        return;
    };
    let reason = first.failed.as_deref().unwrap_or("no reason recorded");
    let others = match view.failed.len() {
        1 => String::new(),
        count => format!(" (and {} more points)", count - 1),
    };
    let (batch, share) = (first.batch, slices(first.share));
    note(
        canvas,
        &format!("Failed: batch {batch} on {share}{others}: {reason}"),
    );
}
