//! Which versions of a model are served.

/// Which versions of a model are served (Triton's `version_policy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The highest ones, this many.
    Latest(u32),
    /// All.
    All,
    /// These.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    /// Triton's default: the highest version.
    fn default() -> Self {
        Self::Latest(1)
    }
}

/// The versions that a [`VersionPolicy`] chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChosenVersions {
    /// Those to serve, rising.
    pub serve: Vec<u64>,
    /// Those that are named and not there, rising.
    pub missing: Vec<u64>,
}

impl VersionPolicy {
    /// Chooses among the versions that are `present`, which rise.
    pub fn choose(&self, present: &[u64]) -> ChosenVersions {
        let all_served = |serve: &[u64]| ChosenVersions {
            serve: serve.to_vec(),
            missing: Vec::new(),
        };
        match self {
            Self::All => all_served(present),
            Self::Latest(count) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                all_served(&present[present.len().saturating_sub(count)..])
            }
            Self::Specific(wanted) => {
                let mut wanted = wanted.clone();
                wanted.sort_unstable();
                wanted.dedup();
                let (serve, missing) = wanted.iter().partition(|known| present.contains(known));
                ChosenVersions { serve, missing }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_choose_as_tritons_do() {
        use VersionPolicy::{All, Latest, Specific};
        let present = [1, 2, 10];
        let cases: [(VersionPolicy, &[u64], &[u64]); 8] = [
            (VersionPolicy::default(), &[10], &[]),
            (Latest(2), &[2, 10], &[]),
            (Latest(9), &[1, 2, 10], &[]),
            (All, &[1, 2, 10], &[]),
            (Specific(vec![2, 1, 2]), &[1, 2], &[]),
            (Specific(vec![10, 3, 1]), &[1, 10], &[3]),
            (Specific(vec![7]), &[], &[7]),
            (Latest(u32::MAX), &[1, 2, 10], &[]),
        ];
        for (policy, serve, missing) in cases {
            let chosen = policy.choose(&present);
            assert_eq!(chosen.serve, serve, "{policy:?}");
            assert_eq!(chosen.missing, missing, "{policy:?}");
        }
    }
}
