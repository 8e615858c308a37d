//! The marks of knees and optima: the same shapes and colours on every chart, hollow where
//! the profile leaves it open.

use super::canvas::{Mark, Shape};
use super::frame::{CHORD, EFFICACY, TOLERANCE, WORK};
use super::view::{slices, time};
use fugato_core::profile::{Candidate, Constraint, Infeasible, KneeRule, ModelProfile, Optimum};

/// A model's knee by one definition.
#[derive(Clone, Copy, Debug)]
pub(super) struct KneeAt {
    pub(super) name: &'static str,
    /// What the definition says.
    pub(super) meaning: &'static str,
    pub(super) share: Option<u16>,
    pub(super) undecided: bool,
    pub(super) mark: Mark<'static>,
}

/// The knee by each definition, in the order in which charts list them.
pub(super) fn knees(model: &ModelProfile) -> [KneeAt; 3] {
    [KneeRule::Tolerance, KneeRule::Efficacy, KneeRule::Chord].map(|rule| {
        let (name, meaning, share, shape, colour) = match rule {
            KneeRule::Tolerance => (
                "tolerance",
                "the smallest share within the tolerance of the best latency",
                model.knee.tolerance,
                Shape::Triangle,
                TOLERANCE,
            ),
            KneeRule::Efficacy => (
                "efficacy",
                "the share with the most batch / (latency\u{b2} \u{d7} share)",
                model.knee.efficacy,
                Shape::Diamond,
                EFFICACY,
            ),
            KneeRule::Chord => (
                "chord",
                "the share farthest below the line from end to end of the curve",
                model.knee.chord,
                Shape::Square,
                CHORD,
            ),
        };
        let undecided = model.undecided_by.contains(&rule);
        KneeAt {
            name,
            meaning,
            share,
            undecided,
            mark: mark(shape, colour, undecided),
        }
    })
}

/// One of a model's two optima.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best<'a> {
    pub(super) name: &'static str,
    pub(super) optimum: &'a Optimum,
    pub(super) mark: Mark<'static>,
}

/// Efficacy, then work.
pub(super) fn optima(model: &ModelProfile) -> [Best<'_>; 2] {
    let best = |name, optimum, shape, colour| Best {
        name,
        optimum,
        mark: mark(shape, colour, is_open(optimum)),
    };
    let optima = &model.optima;
    [
        best("efficacy", &optima.efficacy, Shape::Cross, EFFICACY),
        best("work", &optima.work, Shape::Star, WORK),
    ]
}

impl Best<'_> {
    /// Where to draw it: the optimum, or the point that comes nearest to being one.
    pub(super) fn place(&self) -> Option<Candidate> {
        let chosen = self.optimum.point().map(|point| Candidate {
            batch: point.batch,
            share: point.share,
        });
        chosen.or(self.optimum.infeasible().map(|why| why.nearest))
    }

    /// The optimum in words, with what is open about it.
    pub(super) fn words(&self) -> String {
        let name = self.name;
        if let Some(why) = self.optimum.infeasible() {
            return format!("{name}: {}", shortfall(why));
        }
        let Some(point) = self.optimum.point() else {
            return format!("{name}: not known");
        };
        let (share, latency) = (slices(point.share), time(point.latency_s));
        let how = if point.measured { "" } else { " fitted" };
        let open = match point.rivals.len() {
            0 => String::new(),
            others => format!(", undecided against {others} more"),
        };
        format!(
            "{name}: batch {} on {share}, {latency}{how}{open}",
            point.batch
        )
    }
}

/// A measured point of a line of `points`, hollow where neighbours were busy; none where
/// so many would hide the line.
pub(super) fn dot(colour: &str, hollow: bool, points: usize) -> Option<Mark<'_>> {
    let radius = match points {
        0..=12 => 5.0,
        13..=24 => 3.4,
        _ => return None,
    };
    Some(Mark {
        shape: Shape::Circle,
        radius,
        colour,
        hollow,
    })
}

fn is_open(optimum: &Optimum) -> bool {
    optimum.point().is_none_or(|point| !point.rivals.is_empty())
}

/// Which constraint no point keeps, and by how much the nearest one breaks it.
fn shortfall(why: &Infeasible) -> String {
    let constraint = match why.constraint {
        Constraint::Assembly => "assembly and latency within the objective",
        Constraint::HalfSlo => "latency within half of the objective",
    };
    format!(
        "infeasible; {constraint} is missed by {}, nearest batch {} on {}",
        time(why.shortfall_s),
        why.nearest.batch,
        slices(why.nearest.share)
    )
}

fn mark(shape: Shape, colour: &'static str, hollow: bool) -> Mark<'static> {
    Mark {
        shape,
        radius: 7.0,
        colour,
        hollow,
    }
}
