//! The least-squares problem: non-negative amplitudes of fixed terms, log residuals,
//! bounded pull of outliers.
//!
//! The widths of kernels are not searched but offered: a ladder of widths, each with an
//! amplitude that may be zero. So every parameter enters linearly, the problem has no local
//! minimum that a start could be caught in, and the number of kernels comes out of it.

use super::super::parallelism::{Kernel, KernelList};
use levenberg_marquardt::{LeastSquaresProblem, LevenbergMarquardt};
use nalgebra::{DMatrix, DVector, Dyn, storage::Owned};

/// Relative errors above about this count with their size and not with their square.
///
/// Well above the spread of a point measured 20 times on a quiet machine (1 to 2 %), well
/// below a run that another process disturbed (30 % and more).
const OUTLIER: f64 = 0.05;

/// Relative spread that every point has, however narrow its interval: between two runs the
/// machine itself differs by as much. Without it one point that happened to repeat exactly
/// would rule the fit.
const FLOOR: f64 = 0.02;

/// Weight of the pull to zero, relative to one point at its own [`FLOOR`]: enough to decide
/// between terms that the points cannot tell apart, too little to show in any other.
const RIDGE: f64 = 1e-3;

/// About how often a solve evaluates the model. What is left to gain by then is in
/// amplitudes on their way to zero, which no longer matter: six times as many changed the
/// median error at left-out points of synthetic devices by at most 0.001.
const EVALUATIONS: usize = 60;

/// One measured point, alone on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Items.
    pub(super) batch: f64,
    /// Slices.
    pub(super) share: f64,
    /// The median, in seconds.
    pub(super) median_s: f64,
    /// The natural logarithm of the interval's upper over its lower end.
    pub(super) spread: f64,
}

/// A part of the latency: a shape over (batch, share), to be multiplied by an amplitude in
/// seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Term {
    /// Paid once whatever the batch and the share: `t_np`.
    Launch,
    /// Paid for each item whatever the share.
    PerItem,
    /// Fork and join: paid for each further slice, `t_sync`.
    Sync,
    /// Weights, fetched by all slices together: `d_i / M`.
    Traffic,
    /// Items that crowd each other out of the caches: `c_i / M`.
    Spill,
    /// Parallel operations of this width, in operations per item.
    Kernel(f64),
}

impl Term {
    /// The part's size at a point, for an amplitude of 1 second.
    pub(super) fn shape(self, batch: f64, share: f64) -> f64 {
        match self {
            Self::Launch => 1.0,
            Self::PerItem => batch,
            Self::Sync => share - 1.0,
            Self::Traffic => 1.0 / share,
            Self::Spill => batch * batch / share,
            Self::Kernel(width) => batch / share.min(batch * width).max(1.0),
        }
    }
}

/// Fits the amplitudes of `terms` to the samples, none of them negative.
///
/// # Cost
/// Some tens of QR decompositions of a matrix of samples by terms.
pub(super) fn solve(terms: &[Term], samples: &[Sample]) -> KernelList {
    let problem = Problem::new(terms, samples);
    let scale = problem.scale.clone();
    // The solver counts its patience in evaluations per parameter.
    let patience = (EVALUATIONS / (terms.len() + 1)).max(4);
    let (solved, _) = LevenbergMarquardt::new()
        .with_tol(1e-5)
        .with_patience(patience)
        .minimize(problem);
    let amplitudes: Vec<f64> = solved
        .roots
        .iter()
        .zip(&scale)
        .map(|(root, scale)| root * root * scale)
        .collect();
    list(terms, &amplitudes, samples)
}

/// The relative size of a residual, squared where small and linear where large: the
/// soft-L1 loss of a relative error.
pub(super) fn loss(log_ratio: f64) -> f64 {
    softened(log_ratio / OUTLIER).powi(2)
}

/// `u`, such that its square is the soft-L1 loss of `u`.
fn softened(u: f64) -> f64 {
    u.signum() * (2.0 * ((1.0 + u * u).sqrt() - 1.0)).sqrt()
}

/// The derivative of [`softened`].
fn softened_slope(u: f64) -> f64 {
    let soft = softened(u);
    if soft.abs() < 1e-9 {
        1.0
    } else {
        u / ((1.0 + u * u).sqrt() * soft)
    }
}

struct Problem {
    /// Roots of the scaled amplitudes: a square cannot be negative.
    roots: DVector<f64>,
    /// Amplitude in seconds of a root of 1, per term: the term alone would explain the
    /// samples at their mean.
    scale: Vec<f64>,
    /// `shape x scale` by (sample, term).
    columns: DMatrix<f64>,
    log_s: Vec<f64>,
    weights: Vec<f64>,
    ridge: f64,
}

impl Problem {
    fn new(terms: &[Term], samples: &[Sample]) -> Self {
        let mut columns = DMatrix::from_fn(samples.len(), terms.len(), |row, column| {
            terms[column].shape(samples[row].batch, samples[row].share)
        });
        let scale: Vec<f64> = (0..terms.len())
            .map(|column| {
                // What the term's shape explains of the samples, in relative terms.
                let shares = columns.column(column);
                let sum: f64 = shares
                    .iter()
                    .zip(samples)
                    .map(|(x, s)| x / s.median_s)
                    .sum();
                if sum > 0.0 {
                    samples.len() as f64 / sum
                } else {
                    0.0
                }
            })
            .collect();
        for (column, scale) in scale.iter().enumerate() {
            columns.column_mut(column).scale_mut(*scale);
        }
        let even = (1.0 / terms.len() as f64).sqrt();
        Self {
            roots: DVector::from_element(terms.len(), even),
            scale,
            columns,
            log_s: samples.iter().map(|sample| sample.median_s.ln()).collect(),
            weights: samples.iter().map(weight).collect(),
            ridge: RIDGE * FLOOR / OUTLIER,
        }
    }

    fn modelled(&self) -> DVector<f64> {
        &self.columns * self.roots.map(|root| root * root)
    }
}

/// The weight of a sample: 1 for an interval within [`FLOOR`], less for wider ones.
fn weight(sample: &Sample) -> f64 {
    FLOOR / FLOOR.hypot(sample.spread / 2.0)
}

impl LeastSquaresProblem<f64, Dyn, Dyn> for Problem {
    type ParameterStorage = Owned<f64, Dyn>;
    type ResidualStorage = Owned<f64, Dyn>;
    type JacobianStorage = Owned<f64, Dyn, Dyn>;

    fn set_params(&mut self, roots: &DVector<f64>) {
        self.roots.copy_from(roots);
    }

    fn params(&self) -> DVector<f64> {
        self.roots.clone()
    }

    fn residuals(&self) -> Option<DVector<f64>> {
        let (rows, terms) = self.columns.shape();
        let modelled = self.modelled();
        Some(DVector::from_fn(rows + terms, |row, _| {
            if row < rows {
                let u = self.weights[row] * (modelled[row].ln() - self.log_s[row]) / OUTLIER;
                softened(u)
            } else {
                self.ridge * self.roots[row - rows]
            }
        }))
    }

    fn jacobian(&self) -> Option<DMatrix<f64>> {
        let (rows, terms) = self.columns.shape();
        let modelled = self.modelled();
        let slopes: Vec<f64> = (0..rows)
            .map(|row| {
                let weight = self.weights[row] / OUTLIER;
                let u = weight * (modelled[row].ln() - self.log_s[row]);
                softened_slope(u) * weight / modelled[row]
            })
            .collect();
        Some(DMatrix::from_fn(rows + terms, terms, |row, column| {
            if row < rows {
                slopes[row] * self.columns[(row, column)] * 2.0 * self.roots[column]
            } else if row - rows == column {
                self.ridge
            } else {
                0.0
            }
        }))
    }
}

/// The kernel list of the amplitudes, without what adds nothing anywhere.
fn list(terms: &[Term], amplitudes: &[f64], samples: &[Sample]) -> KernelList {
    /// A part that is nowhere a thousandth of the latency is the solver's remainder.
    const NEGLIGIBLE: f64 = 1e-3;
    let matters = |term: Term, amplitude: f64| {
        samples.iter().any(|sample| {
            amplitude * term.shape(sample.batch, sample.share) > NEGLIGIBLE * sample.median_s
        })
    };
    let mut serial = Kernel {
        repeats: 1.0,
        ..Kernel::default()
    };
    let mut sync_s = 0.0;
    let mut kernels = Vec::new();
    for (&term, &amplitude) in terms.iter().zip(amplitudes) {
        if !matters(term, amplitude) {
            continue;
        }
        match term {
            Term::Launch => serial.launch_s = amplitude,
            Term::PerItem => serial.serial_per_item_s = amplitude,
            Term::Traffic => serial.traffic_s = amplitude,
            Term::Spill => serial.spill_s = amplitude,
            Term::Sync => sync_s = amplitude,
            Term::Kernel(width) => kernels.push(Kernel {
                width,
                repeats: 1.0,
                op_s: amplitude / width,
                ..Kernel::default()
            }),
        }
    }
    kernels.push(serial);
    kernels.sort_by(|a, b| b.width.total_cmp(&a.width));
    // Fork and join are paid by every run of every kernel; the fit knows only their sum.
    let runs = kernels.len() as f64;
    KernelList {
        kernels,
        sync_s: sync_s / runs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jacobian_is_the_residuals_derivative() {
        let sample = |batch: f64, share: f64, median_s: f64, spread: f64| Sample {
            batch,
            share,
            median_s,
            spread,
        };
        let samples = [
            sample(1.0, 1.0, 0.004, 0.0),
            sample(1.0, 4.0, 0.0055, 0.1),
            sample(8.0, 1.0, 0.03, 0.02),
            sample(8.0, 4.0, 0.3, 0.02),
        ];
        let terms = [
            Term::Launch,
            Term::PerItem,
            Term::Sync,
            Term::Traffic,
            Term::Spill,
            Term::Kernel(0.7),
        ];
        let mut problem = Problem::new(&terms, &samples);
        let numerical = levenberg_marquardt::differentiate_numerically(&mut problem).unwrap();
        let ours = problem.jacobian().unwrap();
        let apart = (&ours - &numerical).abs().max();
        assert!(apart < 1e-6, "apart by {apart}:\n{ours}\n{numerical}");
    }
}
