//! A stage plan: what runs when, and beside what.

use super::Chart;
use super::canvas::{Anchor, FAINT, GREY, HEIGHT, INK, Stroke, Style, WHITE, WIDTH, width_of};
use super::frame::{MARGIN, model_colour, note, titled};
use super::scale::{Scale, Spread, linear_ticks, number};
use fugato_core::Nanos;
use fugato_core::plan::{CostBasis, Plan};

const LEFT: f64 = MARGIN + 74.0;
const RIGHT: f64 = WIDTH - MARGIN;
const TOP: f64 = 120.0;
const BOTTOM: f64 = HEIGHT - 112.0;
const INSET: f64 = 0.8;
/// More boxes than this are a grey wall: later stages are then left out.
const STAGES_MAX: usize = 300;

/// How many of what there are, in words.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Draws the stages of a plan: time goes right, the groups of a stage lie above each other, a
/// leg has one colour.
pub fn stages(plan: &Plan, title: &str) -> Chart {
    let shown = plan.stages.len().min(STAGES_MAX);
    let total = plan.stages[..shown].iter();
    let total = total.fold(Nanos::ZERO, |sum, stage| sum + stage.predicted);
    let origin = match plan.costs {
        CostBasis::Measured => "Times of segments are measured.",
        CostBasis::Modelled => "Times of segments are COMPUTED, not measured.",
    };
    let subtitle = format!(
        "{}: {} in {}, {} on {}, {}",
        plan.planner,
        counted(plan.stages.len(), "stage"),
        counted(plan.legs.len(), "leg"),
        plan.key.batch,
        plan.key.share,
        plan.predicted
    );
    let computed = plan.costs == CostBasis::Modelled;
    let mut canvas = titled(title, &subtitle, origin, computed);
    let length = total.as_millis_f64();
    let x = Scale::new(Spread::Linear, (0.0, length.max(1e-6)), (LEFT, RIGHT));
    for at in linear_ticks(0.0, length.max(1e-6), 8) {
        let pixel = x.at(at);
        canvas.line(
            &[(pixel, TOP), (pixel, BOTTOM + 6.0)],
            Stroke::solid(FAINT, 1.0),
        );
        let style = Style::plain(16.0, GREY).anchored(Anchor::Middle);
        canvas.text((pixel, BOTTOM + 26.0), &number(at), style);
    }
    let style = Style::plain(16.0, INK).anchored(Anchor::Middle);
    canvas.text(((LEFT + RIGHT) / 2.0, BOTTOM + 50.0), "time, ms", style);
    let height = (BOTTOM - TOP) / plan.width().max(1) as f64;
    let mut begin = 0.0;
    for (place, stage) in plan.stages[..shown].iter().enumerate() {
        let end = begin + stage.predicted.as_millis_f64();
        let leg = plan
            .legs
            .iter()
            .position(|leg| leg.stages.contains(&(place as u32)));
        let (from, to) = (x.at(begin), x.at(end));
        for (row, group) in stage.groups.iter().enumerate() {
            let top = BOTTOM - height * (row + 1) as f64;
            let size = ((to - from - INSET).max(0.4), (height - INSET).max(0.4));
            let hint = format!(
                "stage {place}, group {row}: {} segments, {}",
                group.segments.len(),
                stage.predicted
            );
            canvas.rect(
                (from, top),
                size,
                model_colour(leg.unwrap_or(0)),
                Some(&hint),
            );
            let label = place.to_string();
            if row == 0 && width_of(&label, 12.0) + 4.0 < size.0 {
                let style = Style::plain(12.0, WHITE).anchored(Anchor::Middle);
                canvas.text(((from + to) / 2.0, top + height / 2.0 + 4.0), &label, style);
            }
        }
        begin = end;
    }
    if shown < plan.stages.len() {
        note(
            &mut canvas,
            &format!("{} later stages are left out", plan.stages.len() - shown),
        );
    }
    Chart {
        file: "stages.svg".to_owned(),
        svg: canvas.finish(),
    }
}
