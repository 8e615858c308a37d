//! Both optima on the (batch, share) surface: one map of efficacy, one of work.

use super::canvas::{Anchor, Canvas, GREY, HEIGHT, INK, Mark, Point, Style, WHITE, WIDTH};
use super::frame::{Area, Axis, MARGIN, Sign, axes, heat_colour, legend, note, page};
use super::marks;
use super::scale::{Scale, Spread, whole_ticks};
use super::view::{View, slices, time};
use fugato_core::profile::{Candidate, Limits, Load, Profile};

const TOP: f64 = 168.0;
const BOTTOM: f64 = HEIGHT - 128.0;
/// A cell narrower or lower than this has no room for text.
const TEXT_WIDTH: f64 = 64.0;
const TEXT_HEIGHT: f64 = 44.0;
const TOO_LATE: &str = "#f3f4f6";

/// What a map shows: larger is better.
struct Measure {
    title: &'static str,
    /// What the other slices do: as where the profile finds the optimum.
    load: Load,
    of: fn(Candidate, f64) -> f64,
}

const EFFICACY_MAP: Measure = Measure {
    title: "batch / (latency\u{b2} \u{d7} share), alone: % of the best",
    load: Load::Alone,
    of: |place, seconds| f64::from(place.batch) / (seconds.powi(2) * f64::from(place.share)),
};

/// The least work is the most items per slice-second.
const WORK_MAP: Measure = Measure {
    title: "items per slice-second, others busy: % of the best",
    load: Load::Busy,
    of: |place, seconds| f64::from(place.batch) / (seconds * f64::from(place.share)),
};

/// Draws the chart of one model.
pub(super) fn chart(profile: &Profile, view: &View<'_>) -> String {
    let objective = match view.model.slo_s {
        Some(slo) => format!("under an objective of {}", time(slo)),
        None => "without an objective: only the largest batch binds".to_owned(),
    };
    let subtitle = format!("The two best (batch, share) points, {objective}");
    let mut canvas = page(profile, &view.title(), &subtitle);
    let left = Area {
        left: MARGIN + 44.0,
        top: TOP,
        right: WIDTH / 2.0 - 20.0,
        bottom: BOTTOM,
    };
    let right = Area {
        left: WIDTH / 2.0 + 64.0,
        right: WIDTH - MARGIN,
        ..left
    };
    for (area, measure) in [(left, &EFFICACY_MAP), (right, &WORK_MAP)] {
        map(&mut canvas, view, &Cells::new(view, area), measure);
    }
    let [efficacy, work] = marks::optima(view.model);
    let entries = [
        (Sign::Mark(efficacy.mark.settled()), "efficacy optimum"),
        (Sign::Mark(work.mark.settled()), "work optimum"),
    ];
    legend(&mut canvas, (WIDTH - MARGIN, 112.0), &entries);
    let words = [efficacy.words(), work.words()].join("; ");
    note(&mut canvas, &format!("Optima. {words}"));
    canvas.finish()
}

/// Where the cells of a map lie.
struct Cells {
    area: Area,
    shares: Vec<u16>,
    batches: Vec<u32>,
    x: Scale,
    /// One more than shares: half-way between neighbours.
    edges: Vec<f64>,
    height: f64,
}

impl Cells {
    fn new(view: &View<'_>, area: Area) -> Self {
        let (shares, batches) = (view.shares(), view.batches());
        let middle = |pair: &[u16]| f64::midpoint(f64::from(pair[0]), f64::from(pair[1]));
        let inner: Vec<f64> = shares.windows(2).map(middle).collect();
        let first = shares.first().copied().map_or(1.0, f64::from);
        let last = shares.last().copied().map_or(1.0, f64::from);
        let ends = (
            inner.first().map_or(first - 0.5, |edge| 2.0 * first - edge),
            inner.last().map_or(last + 0.5, |edge| 2.0 * last - edge),
        );
        let x = Scale::new(Spread::Linear, ends, (area.left, area.right));
        let all = [ends.0].into_iter().chain(inner).chain([ends.1]);
        Self {
            edges: all.map(|edge| x.at(edge)).collect(),
            height: (area.bottom - area.top) / batches.len() as f64,
            area,
            shares,
            batches,
            x,
        }
    }

    /// The pixel of a batch: the middle of its row, or between the rows of its neighbours.
    fn y(&self, batch: u32) -> f64 {
        let above = self.batches.partition_point(|known| *known < batch);
        let row = match (
            self.batches.get(above.wrapping_sub(1)),
            self.batches.get(above),
        ) {
            (_, Some(known)) if *known == batch => above as f64,
            (Some(low), Some(high)) => {
                let [low, at, high] = [*low, batch, *high].map(|batch| f64::from(batch).ln());
                above as f64 - 1.0 + (at - low) / (high - low)
            }
            (Some(_), None) => above as f64 - 0.5,
            (None, _) => -0.5,
        };
        self.area.bottom - self.height * (row + 0.5)
    }
}

/// A measured place, by one measure.
struct Cell {
    place: Candidate,
    seconds: f64,
    /// Of the best; none where it breaks the objective.
    part: Option<f64>,
}

/// The measured places, with latencies beside the neighbours that the measure is about.
fn cells_of(view: &View<'_>, measure: &Measure) -> Vec<Cell> {
    let model = view.model;
    let limits = Limits {
        slo_s: model.slo_s,
        arrival_rate: model.arrival_rate,
        max_batch: model.max_batch,
        blocking_s: 0.0,
    };
    let mut cells = Vec::new();
    for sample in view.batches().iter().flat_map(|batch| view.alone(*batch)) {
        let (batch, share) = (sample.point.batch, sample.point.share);
        let beside = view.surface.under(batch, share, measure.load);
        let seconds = beside.map_or(sample.times.median_s, |beside| beside.median_s);
        let place = Candidate { batch, share };
        let kept = batch <= model.max_batch && limits.violation(batch, seconds).is_none();
        cells.push(Cell {
            place,
            seconds,
            part: kept.then(|| (measure.of)(place, seconds)),
        });
    }
    let best = cells
        .iter()
        .filter_map(|cell| cell.part)
        .fold(0.0, f64::max);
    for cell in &mut cells {
        cell.part = cell.part.map(|value| value / best);
    }
    cells
}

/// The cells of one measure, with the marks of both optima.
fn map(canvas: &mut Canvas, view: &View<'_>, cells: &Cells, measure: &Measure) {
    for cell in cells_of(view, measure) {
        let Candidate { batch, share } = cell.place;
        let column = cells.shares.partition_point(|known| *known < share);
        let (left, right) = (cells.edges[column], cells.edges[column + 1]);
        let (middle, height) = (cells.y(batch), cells.height);
        let gap = if right - left > 24.0 { 2.0 } else { 0.0 };
        // Most of a surface is far from the best: the upper half gets the colours.
        let part = cell.part.map(|part| part.powf(1.6));
        let colour = part.map_or(TOO_LATE.to_owned(), heat_colour);
        let at = (left, middle - height / 2.0);
        let (on, took) = (slices(share), time(cell.seconds));
        let hint = format!("batch {batch} on {on}: {took}, {}", cell.verdict());
        let size = (right - left - gap, height - 1.0);
        canvas.rect(at, size, &colour, Some(&hint));
        if right - left >= TEXT_WIDTH && height >= TEXT_HEIGHT {
            label(canvas, (f64::midpoint(left, right), middle), &cell);
        }
    }
    frame(canvas, cells, measure.title);
    let both = marks::optima(view.model);
    let same = both[0].place() == both[1].place();
    let narrow = cells.edges[1] - cells.edges[0] < TEXT_WIDTH + 70.0;
    for (side, best) in both.iter().enumerate() {
        let Some(place) = best.place() else {
            continue;
        };
        // Beside the text of a wide cell, one mark on each side of it; beside each other
        // where both are one narrow cell.
        let aside = match (narrow, same) {
            (false, _) => [-66.0, 66.0][side],
            (true, true) => [0.0, 26.0][side],
            (true, false) => 0.0,
        };
        let share = cells.x.at(f64::from(place.share));
        let at = (share + aside, cells.y(place.batch));
        let mark = Mark {
            radius: 10.0,
            ..best.mark
        };
        canvas.mark(at, mark, Some(&best.words()));
    }
}

impl Cell {
    fn verdict(&self) -> String {
        match self.part {
            Some(part) => format!("{:.0} %", part * 100.0),
            None => "too late".to_owned(),
        }
    }
}

fn label(canvas: &mut Canvas, at: Point, cell: &Cell) {
    let dark = cell.part.is_some_and(|part| part > 0.8);
    let (first, second) = if dark { (WHITE, WHITE) } else { (INK, GREY) };
    let style = Style::plain(17.0, first).anchored(Anchor::Middle).bold();
    canvas.text((at.0, at.1 - 1.0), &cell.verdict(), style);
    let style = Style::plain(13.0, second).anchored(Anchor::Middle);
    canvas.text((at.0, at.1 + 17.0), &time(cell.seconds), style);
}

fn frame(canvas: &mut Canvas, cells: &Cells, title: &str) {
    let area = cells.area;
    let shares: Vec<u32> = cells.shares.iter().copied().map(u32::from).collect();
    let kept = whole_ticks(&shares, &cells.x, 34.0);
    let ticks = kept
        .into_iter()
        .map(|share| (cells.x.at(f64::from(share)), share.to_string()));
    let x = Axis {
        ticks: ticks.collect(),
        title: "share, slices",
    };
    let none = Axis {
        ticks: Vec::new(),
        title: "batch",
    };
    axes(canvas, area, &x, &none);
    for batch in &cells.batches {
        let at = (area.left - 10.0, cells.y(*batch) + 5.5);
        let style = Style::plain(16.0, GREY).anchored(Anchor::End);
        canvas.text(at, &batch.to_string(), style);
    }
    let style = Style::plain(17.0, INK).anchored(Anchor::End);
    canvas.text((area.right, area.top - 20.0), title, style);
}
