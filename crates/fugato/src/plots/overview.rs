//! All models of a profile on one page: what more of the device brings each, and the share
//! that is enough.

use super::canvas::{
    Anchor, Canvas, GREY, HEIGHT, Mark, Point, Stroke, Style, WIDTH, fitted, width_of,
};
use super::frame::{Area, Axis, MARGIN, Sign, axes, end_labels, legend, model_colour, note, page};
use super::marks;
use super::scale::{Scale, Spread, linear_ticks, log_ticks, number, whole_ticks};
use super::view::View;
use fugato_core::profile::{ModelProfile, Profile};

const TOP: f64 = 172.0;
const BOTTOM: f64 = HEIGHT - 118.0;
const CURVES: Area = Area {
    left: MARGIN + 44.0,
    top: TOP,
    right: 480.0,
    bottom: BOTTOM,
};
const ROWS: Area = Area {
    left: 820.0,
    top: TOP,
    right: WIDTH - MARGIN - 110.0,
    bottom: BOTTOM,
};
/// More rows than this cannot be read on one page.
pub(super) const MODELS_MAX: usize = 16;

/// Draws the overview; `unmeasured` names models without any time.
pub(super) fn chart(profile: &Profile, views: &[View<'_>], unmeasured: &[&str]) -> String {
    let shown = &views[..views.len().min(MODELS_MAX)];
    let title = match views.len() {
        1 => "What one model can use".to_owned(),
        count => format!("What {count} models can use"),
    };
    let subtitle = "Left: latency against share, as a multiple of each model's best. \
                    Right: the share that is enough, and the two optima";
    let mut canvas = page(profile, &title, subtitle);
    let shares = Shares::of(shown);
    curves(&mut canvas, shown, &shares);
    rows(&mut canvas, shown, &shares);
    let mut left_out: Vec<&str> = unmeasured.to_vec();
    left_out.extend(
        views[shown.len()..]
            .iter()
            .map(|view| view.model.name.as_str()),
    );
    if !left_out.is_empty() {
        note(&mut canvas, &format!("Not shown: {}", left_out.join(", ")));
    }
    canvas.finish()
}

/// The shares that any model was measured at.
struct Shares {
    all: Vec<u32>,
}

impl Shares {
    fn of(views: &[View<'_>]) -> Self {
        let mut all: Vec<u32> = views.iter().flat_map(View::shares).map(u32::from).collect();
        all.sort_unstable();
        all.dedup();
        Self { all }
    }

    fn scale(&self, pixels: (f64, f64)) -> Scale {
        let first = self.all.first().copied().map_or(1.0, f64::from);
        let last = self.all.last().copied().map_or(1.0, f64::from);
        let pad = ((last - first) * 0.03).max(0.35);
        Scale::new(Spread::Linear, (first - pad, last + pad), pixels)
    }

    fn axis<'a>(&self, scale: &Scale) -> Axis<'a> {
        let kept = whole_ticks(&self.all, scale, 38.0);
        let ticks = kept
            .iter()
            .map(|share| (scale.at(f64::from(*share)), share.to_string()));
        Axis {
            ticks: ticks.collect(),
            title: "share, slices",
        }
    }
}

/// Latency over each model's best one, at the batch of its knee.
fn curves(canvas: &mut Canvas, views: &[View<'_>], shares: &Shares) {
    let area = CURVES;
    let x = shares.scale((area.left, area.right));
    let of_model = |view: &View<'_>| -> Vec<(u16, f64)> {
        let samples = view.alone(view.knee_batch());
        let best = samples
            .iter()
            .map(|sample| sample.times.median_s)
            .fold(f64::INFINITY, f64::min);
        let over = samples
            .iter()
            .map(|sample| (sample.point.share, sample.times.median_s / best));
        over.collect()
    };
    let all: Vec<Vec<(u16, f64)>> = views.iter().map(of_model).collect();
    let most = all
        .iter()
        .flatten()
        .map(|(_, over)| *over)
        .fold(1.0, f64::max);
    // Linear where it can be: twice the time must look like twice the time.
    let spread = if most > 6.0 {
        Spread::Log
    } else {
        Spread::Linear
    };
    let low = if most > 6.0 {
        0.93
    } else {
        (1.0 - (most - 1.0) * 0.08).min(0.97)
    };
    let y = Scale::new(
        spread,
        (low, (most * 1.04).max(1.2)),
        (area.bottom, area.top),
    );
    let ticks = match spread {
        Spread::Log => log_ticks(1.0, most),
        Spread::Linear => linear_ticks(1.0, most.max(1.15), 6),
    };
    let y_axis = Axis {
        ticks: ticks
            .iter()
            .map(|tick| (y.at(*tick), format!("{}\u{d7}", number(*tick))))
            .collect(),
        title: match spread {
            Spread::Log => "latency over the best (log scale)",
            Spread::Linear => "latency over the best",
        },
    };
    axes(canvas, area, &shares.axis(&x), &y_axis);
    let mut labels = Vec::new();
    for (index, (view, curve)) in views.iter().zip(&all).enumerate() {
        let colour = model_colour(index);
        let place =
            |(share, over): &(u16, f64)| -> Point { (x.at(f64::from(*share)), y.at(*over)) };
        let points: Vec<Point> = curve.iter().map(place).collect();
        canvas.line(&points, Stroke::solid(colour, 2.6));
        if let Some(mark) = marks::dot(colour, false, points.len()) {
            for point in &points {
                canvas.mark(*point, mark, None);
            }
        }
        if let Some(end) = points.last() {
            labels.push((
                *end,
                fitted(&view.model.name, 16.0, 170.0),
                colour.to_owned(),
            ));
        }
    }
    end_labels(canvas, area, &labels);
}

/// A row for each model: its knee by each definition, and the shares of both optima, each
/// on a line of its own, so that every mark stands at exactly its share.
fn rows(canvas: &mut Canvas, views: &[View<'_>], shares: &Shares) {
    let area = ROWS;
    let x = shares.scale((area.left, area.right));
    let height = (area.bottom - area.top) / views.len() as f64;
    let step = (height / 5.6).min(13.0);
    for (index, view) in views.iter().enumerate() {
        let y = area.top + height * (index as f64 + 0.5);
        let size = (height * 0.42).clamp(10.0, 16.0);
        let style = Style::plain(size, model_colour(index))
            .anchored(Anchor::End)
            .bold();
        let name = fitted(&view.model.name, size, 170.0);
        canvas.text((area.left - 12.0, y + size * 0.35), &name, style);
        for line in 0..5_u8 {
            let y = y + (f64::from(line) - 2.0) * step;
            canvas.line(
                &[(area.left, y), (area.right, y)],
                Stroke::solid("#f3f4f6", 1.0),
            );
        }
        let radius = |mark: Mark<'_>| mark.radius.min(step * 0.5);
        for (line, knee) in marks::knees(view.model).iter().enumerate() {
            let y = y + (line as f64 - 2.0) * step;
            if let Some(share) = knee.share {
                let mark = Mark {
                    radius: radius(knee.mark),
                    ..knee.mark
                };
                canvas.mark((x.at(f64::from(share)), y), mark, Some(knee.meaning));
            }
        }
        for (line, best) in marks::optima(view.model).iter().enumerate() {
            let y = y + (line as f64 + 1.0) * step;
            let mark = Mark {
                radius: radius(best.mark),
                ..best.mark
            };
            if let Some(place) = best.place() {
                let at = (x.at(f64::from(place.share)), y);
                canvas.mark(at, mark, Some(&best.words()));
            }
        }
        batches(
            canvas,
            view,
            (area.right, index as f64 * height + area.top),
            height,
        );
    }
    let none = Axis {
        ticks: Vec::new(),
        title: "",
    };
    axes(canvas, area, &shares.axis(&x), &none);
    signs(canvas);
}

/// The batches of both optima, in a column beside the rows.
fn batches(canvas: &mut Canvas, view: &View<'_>, corner: Point, height: f64) {
    let size = (height * 0.3).clamp(9.0, 15.0);
    for (line, best) in marks::optima(view.model).iter().enumerate() {
        let y = corner.1 + height / 2.0 + (line as f64 - 0.5) * size * 1.35;
        let mark = Mark {
            radius: size * 0.42,
            ..best.mark
        };
        canvas.mark((corner.0 + 28.0, y), mark, Some(&best.words()));
        let text = match (best.optimum.point(), best.optimum.infeasible()) {
            (Some(point), _) => format!("batch {}", point.batch),
            (None, Some(_)) => "infeasible".to_owned(),
            (None, None) => "not known".to_owned(),
        };
        let at = (corner.0 + 42.0, y + size * 0.36);
        canvas.text(at, &text, Style::plain(size, GREY));
    }
}

/// What the marks mean, filled as for a settled answer.
fn signs(canvas: &mut Canvas) {
    let settled = |mark: Mark<'static>| Sign::Mark(mark.settled());
    let none = ModelProfile::new("", "", 1);
    let [tolerance, efficacy, chord] = marks::knees(&none).map(|knee| settled(knee.mark));
    let [by_efficacy, by_work] = marks::optima(&none).map(|best| settled(best.mark));
    let knees = [
        (tolerance, "knee: tolerance"),
        (efficacy, "efficacy"),
        (chord, "chord"),
    ];
    legend(canvas, (WIDTH - MARGIN, 116.0), &knees);
    let optima = [(by_efficacy, "optimum: efficacy"), (by_work, "work")];
    let end = legend_end("hollow: undecided or infeasible");
    legend(canvas, (end, 142.0), &optima);
    let style = Style::plain(15.0, GREY).anchored(Anchor::End);
    canvas.text(
        (WIDTH - MARGIN, 142.0),
        "hollow: undecided or infeasible",
        style,
    );
}

fn legend_end(text: &str) -> f64 {
    WIDTH - MARGIN - width_of(text, 15.0) - 24.0
}
