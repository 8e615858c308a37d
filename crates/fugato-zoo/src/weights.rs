//! Seeded weights: the same bytes for the same seed, on any number of threads.
//!
//! Each tensor has its own ChaCha8 key, made of the seed, the model's name and the
//! tensor's name, so that adding a tensor changes no other. Each block of a tensor has
//! its own stream of that key, so that blocks can be filled in any order.
//!
//! Normal values are sums of four uniform ones (Irwin-Hall): cut at 3.46 standard
//! deviations, and an order of magnitude cheaper than exact ones, which initial weights
//! do not need.

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::sync::{Mutex, PoisonError};

/// How a tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Normal, and each filter (all that shares the first index) sums to zero.
    ///
    /// Activations past a ReLU have a mean that is larger than what tells two inputs
    /// apart. Filters that sum to zero pass the difference on and not the mean, which
    /// keeps the outputs of deep nets dependent on their input.
    ///
    /// # Source
    /// Weight standardisation (Qiao et al. 2019) as used at initialisation by
    /// normaliser-free nets (Brock et al. 2021). Ours keeps the expected variance only,
    /// and does not rescale each filter to it.
    Filter {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform between `mean - spread` and `mean + spread`.
    Uniform {
        /// Mean.
        mean: f32,
        /// Half the width.
        spread: f32,
    },
}

/// Elements of a block: large enough that starting a stream costs nothing, small enough
/// to share work among threads.
const BLOCK_ELEMENTS: usize = 1 << 16;

/// Tensors under this number of elements are filled on the calling thread.
const PARALLEL_ELEMENTS_MIN: usize = 1 << 20;

/// Most threads; memory bandwidth is the limit beyond.
const THREADS_MAX: usize = 8;

/// The key of one tensor's random streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorSeed([u8; 32]);

impl TensorSeed {
    /// Derives the key from the user's seed and the names of model and tensor.
    pub(crate) fn new(seed: u64, model: &str, tensor: &str) -> Self {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(model.as_bytes()).to_le_bytes());
        key[16..24].copy_from_slice(&fnv1a(tensor.as_bytes()).to_le_bytes());
        Self(key)
    }

    fn block(self, index: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_stream(index as u64);
        rng
    }
}

/// The 64-bit FNV-1a hash: stable across versions, unlike the standard library's.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Fills a float tensor.
///
/// # Shape
/// `dims` are the tensor's; the bytes are little-endian and row-major.
pub(crate) fn fill(seed: TensorSeed, dims: &[u64], init: Init) -> Bytes {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    fill_on(threads.min(THREADS_MAX), seed, dims, init)
}

fn fill_on(threads: usize, seed: TensorSeed, dims: &[u64], init: Init) -> Bytes {
    let elements = dims.iter().product::<u64>() as usize;
    let row = dims.iter().skip(1).product::<u64>().max(1) as usize;
    // Whole rows per block, since a filter's sum needs all of its row.
    let block = row * (BLOCK_ELEMENTS / row).max(1);
    let mut bytes = vec![0_u8; elements * 4];
    let (words, _) = bytes.as_chunks_mut::<4>();
    let fill_block = |index: usize, words: &mut [[u8; 4]]| {
        let mut rng = seed.block(index);
        for row in words.chunks_mut(row) {
            fill_row(&mut rng, init, row);
        }
    };
    if threads < 2 || elements < PARALLEL_ELEMENTS_MIN {
        for (index, words) in words.chunks_mut(block).enumerate() {
            fill_block(index, words);
        }
    } else {
        let blocks = Mutex::new(words.chunks_mut(block).enumerate());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((index, words)) = next else { break };
                        fill_block(index, words);
                    }
                });
            }
        });
    }
    bytes.into()
}

fn fill_row(rng: &mut ChaCha8Rng, init: Init, row: &mut [[u8; 4]]) {
    match init {
        Init::Normal { std } => fill_normal(rng, std, row),
        Init::Filter { std } => {
            fill_normal(rng, std, row);
            let sum: f64 = row.iter().map(|&w| f64::from(f32::from_le_bytes(w))).sum();
            let mean = (sum / row.len() as f64) as f32;
            for word in row {
                *word = (f32::from_le_bytes(*word) - mean).to_le_bytes();
            }
        }
        Init::Uniform { mean, spread } => {
            for word in row {
                // 24 bits, the precision of a float, in [-1, 1).
                let unit = (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
                *word = (mean + spread * unit).to_le_bytes();
            }
        }
    }
}

fn fill_normal(rng: &mut ChaCha8Rng, std: f32, row: &mut [[u8; 4]]) {
    // Four uniform 16-bit integers: mean 4 * 65535 / 2, variance 4 * 65536^2 / 12.
    const MEAN: f32 = 131_070.0;
    const STD: f32 = 37_837.227;
    let scale = std / STD;
    let mut random = [[0_u8; 8]; 256];
    for words in row.chunks_mut(random.len()) {
        let random = &mut random[..words.len()];
        rng.fill_bytes(random.as_flattened_mut());
        for (word, &bytes) in words.iter_mut().zip(random.iter()) {
            let bits = u64::from_le_bytes(bytes);
            let pairs = (bits & 0x0000_ffff_0000_ffff) + ((bits >> 16) & 0x0000_ffff_0000_ffff);
            let sum = (pairs as u32) + (pairs >> 32) as u32;
            *word = ((sum as f32 - MEAN) * scale).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(bytes: &Bytes) -> Vec<f64> {
        let (words, _) = bytes.as_chunks::<4>();
        words
            .iter()
            .map(|&w| f64::from(f32::from_le_bytes(w)))
            .collect()
    }

    fn mean_and_std(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        (mean, var.sqrt())
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        let seed = TensorSeed::new(7, "m", "w");
        for init in [Init::Normal { std: 1.0 }, Init::Filter { std: 0.1 }] {
            let dims = [1100, 3, 333];
            let one = fill_on(1, seed, &dims, init);
            assert!(
                one.len() / 4 >= PARALLEL_ELEMENTS_MIN,
                "takes the threaded path"
            );
            assert_eq!(one, fill_on(2, seed, &dims, init));
            assert_eq!(one, fill_on(5, seed, &dims, init));
        }
    }

    #[test]
    fn seed_model_and_tensor_each_change_the_bytes() {
        let fill = |seed, model, tensor| {
            fill(
                TensorSeed::new(seed, model, tensor),
                &[64],
                Init::Normal { std: 1.0 },
            )
        };
        let base = fill(1, "m", "w");
        assert_eq!(base, fill(1, "m", "w"));
        for other in [fill(2, "m", "w"), fill(1, "n", "w"), fill(1, "m", "v")] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn values_have_the_moments_asked_for() {
        let seed = TensorSeed::new(3, "m", "w");
        let normal = values(&fill(seed, &[400, 500], Init::Normal { std: 0.5 }));
        let (mean, std) = mean_and_std(&normal);
        assert!(
            mean.abs() < 0.005 && (std - 0.5).abs() < 0.005,
            "{mean} {std}"
        );
        // A normal distribution has 4.55 % beyond two standard deviations.
        let tails = normal.iter().filter(|v| v.abs() > 1.0).count() as f64 / 200_000.0;
        assert!((0.03..0.06).contains(&tails), "{tails}");
        let uniform = Init::Uniform {
            mean: 1.0,
            spread: 0.2,
        };
        let uniform = values(&fill(seed, &[100_000], uniform));
        assert!(uniform.iter().all(|v| (0.799..1.201).contains(v)));
        let (mean, std) = mean_and_std(&uniform);
        assert!((mean - 1.0).abs() < 0.002 && (std - 0.2 / 3_f64.sqrt()).abs() < 0.002);
    }

    #[test]
    fn every_filter_sums_to_zero() {
        let filters = values(&fill(
            TensorSeed::new(3, "m", "w"),
            &[700, 16, 3, 3],
            Init::Filter { std: 1.0 },
        ));
        for filter in filters.chunks(144) {
            let (mean, std) = mean_and_std(filter);
            assert!(mean.abs() < 1e-6 && std > 0.7, "{mean} {std}");
        }
    }
}
