//! Throughput: what batching brings one copy, and what each slice yields.

use super::canvas::{Canvas, GREY, HEIGHT, Mark, Point, Shape, Stroke, WIDTH};
use super::frame::{
    Area, Axis, MARGIN, Sign, axes, end_labels, legend, note, ordered_colour, page,
};
use super::latency::{beside, share_axis, share_scale};
use super::marks;
use super::scale::{Scale, Spread, linear_ticks, number};
use super::view::{Sample, View, slices};
use fugato_core::profile::Profile;

const TOP: f64 = 168.0;
const BOTTOM: f64 = HEIGHT - 118.0;
const ONE_COPY: Area = Area {
    left: MARGIN + 48.0,
    top: TOP,
    right: 545.0,
    bottom: BOTTOM,
};
const PER_SLICE: Area = Area {
    left: 730.0,
    top: TOP,
    right: WIDTH - 135.0,
    bottom: BOTTOM,
};
/// Lines of one panel that can be told apart.
const LINES_MAX: usize = 6;

/// Draws the chart of one model.
pub(super) fn chart(profile: &Profile, view: &View<'_>) -> String {
    let subtitle = "Throughput of one copy that never waits, and what each slice it holds yields";
    let mut canvas = page(profile, &view.title(), subtitle);
    one_copy(&mut canvas, view);
    per_slice(&mut canvas, view);
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
    let [efficacy, work] = marks::optima(view.model);
    entries.push((Sign::Mark(efficacy.mark.settled()), "efficacy optimum"));
    entries.push((Sign::Mark(work.mark.settled()), "work optimum"));
    legend(&mut canvas, (WIDTH - MARGIN, 116.0), &entries);
    let words = marks::optima(view.model).map(|best| best.words());
    note(&mut canvas, &format!("Optima. {}", words.join("; ")));
    canvas.finish()
}

/// Requests per second against batch, a line for each share.
fn one_copy(canvas: &mut Canvas, view: &View<'_>) {
    let area = ONE_COPY;
    let batches = view.batches();
    let ends = (batches.first().copied(), batches.last().copied());
    let [first, last] = [ends.0, ends.1].map(|batch| f64::from(batch.unwrap_or(1)));
    let x = Scale::new(
        Spread::Log,
        (first * 0.88, last * 1.14),
        (area.left, area.right),
    );
    let most = view
        .samples()
        .map(|sample| sample.rate())
        .fold(0.0, f64::max);
    let y = Scale::new(Spread::Linear, (0.0, most * 1.06), (area.bottom, area.top));
    let place = |batch: u32| (x.at(f64::from(batch)), batch.to_string());
    let x_axis = Axis {
        ticks: batches.iter().map(|batch| place(*batch)).collect(),
        title: "batch, items",
    };
    axes(
        canvas,
        area,
        &x_axis,
        &rates(&y, most, "one copy alone, items/s"),
    );
    let shares = some_of(&view.shares());
    let mut labels = Vec::new();
    for (index, share) in shares.iter().enumerate() {
        let colour = ordered_colour(index, shares.len());
        let samples = batches.iter().filter_map(|batch| view.at(*batch, *share));
        let samples: Vec<Sample<'_>> = samples.collect();
        let place = |sample: &Sample<'_>| -> Point {
            (x.at(f64::from(sample.point.batch)), y.at(sample.rate()))
        };
        let points: Vec<Point> = samples.iter().map(place).collect();
        canvas.line(&points, Stroke::solid(&colour, 2.6));
        for sample in &samples {
            if let Some(mark) = marks::dot(&colour, false, samples.len()) {
                canvas.mark(place(sample), mark, Some(&sample.hint()));
            }
        }
        if let Some(end) = points.last() {
            labels.push((*end, slices(*share), colour));
        }
    }
    end_labels(canvas, area, &labels);
}

/// Requests per second and slice against share, a line for each batch: the inverse of work,
/// so the `work` optimum is the highest point that the objective allows.
fn per_slice(canvas: &mut Canvas, view: &View<'_>) {
    let area = PER_SLICE;
    let x = share_scale(view, (area.left, area.right));
    let each = |sample: &Sample<'_>| sample.rate() / f64::from(sample.point.share);
    let most = view
        .samples()
        .map(|sample| each(&sample))
        .fold(0.0, f64::max);
    let y = Scale::new(Spread::Linear, (0.0, most * 1.06), (area.bottom, area.top));
    let y_axis = rates(&y, most, "per slice held, items/s");
    axes(canvas, area, &share_axis(view, &x), &y_axis);
    let aside = beside(view, &x);
    let batches = view.batches();
    let mut labels = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        let colour = ordered_colour(index, batches.len());
        let place = |sample: &Sample<'_>| -> Point {
            let aside = if sample.point.neighbours > 0 {
                aside
            } else {
                0.0
            };
            (
                x.at(f64::from(sample.point.share)) + aside,
                y.at(each(sample)),
            )
        };
        let (alone, busy) = (view.alone(*batch), view.busy(*batch));
        let points: Vec<Point> = busy.iter().map(place).collect();
        canvas.line(&points, Stroke::dashed(&colour, 2.0));
        let points: Vec<Point> = alone.iter().map(place).collect();
        canvas.line(&points, Stroke::solid(&colour, 2.6));
        for sample in busy.iter().chain(&alone) {
            let hollow = sample.point.neighbours > 0;
            if let Some(mark) = marks::dot(&colour, hollow, alone.len()) {
                canvas.mark(place(sample), mark, Some(&sample.hint()));
            }
        }
        if let Some(end) = points.last() {
            labels.push((*end, format!("batch {batch}"), colour));
        }
    }
    end_labels(canvas, area, &labels);
    optima(canvas, view, &x, &y);
}

/// The marks of both optima at their points; beside each other where that is one point.
fn optima(canvas: &mut Canvas, view: &View<'_>, x: &Scale, y: &Scale) {
    let both = marks::optima(view.model);
    let same = both[0].place() == both[1].place();
    for (side, best) in both.iter().enumerate() {
        let Some(point) = best.optimum.point() else {
            continue;
        };
        let rate = f64::from(point.batch) / point.latency_s / f64::from(point.share);
        let aside = if same { side as f64 * 19.0 } else { 0.0 };
        let at = (x.at(f64::from(point.share)) + aside, y.at(rate));
        canvas.mark(at, best.mark, Some(&best.words()));
    }
}

fn rates<'a>(y: &Scale, most: f64, title: &'a str) -> Axis<'a> {
    let ticks = linear_ticks(0.0, most * 1.06, 5);
    Axis {
        ticks: ticks
            .into_iter()
            .map(|tick| (y.at(tick), number(tick)))
            .collect(),
        title,
    }
}

/// At most [`LINES_MAX`] of sorted shares, both ends among them.
fn some_of(shares: &[u16]) -> Vec<u16> {
    if shares.len() <= LINES_MAX {
        return shares.to_vec();
    }
    let last = shares.len() - 1;
    let place = |index: usize| shares[index * last / (LINES_MAX - 1)];
    (0..LINES_MAX).map(place).collect()
}
