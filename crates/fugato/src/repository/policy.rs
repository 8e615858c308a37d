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

impl VersionPolicy {
    /// The versions to serve of those `present`, which rise.
    ///
    /// # Errors
    /// The specific versions that are not there, rising.
    pub fn choose(&self, present: &[u64]) -> Result<Vec<u64>, Vec<u64>> {
        match self {
            Self::All => Ok(present.to_vec()),
            Self::Latest(count) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                Ok(present[present.len().saturating_sub(count)..].to_vec())
            }
            Self::Specific(wanted) => {
                let mut wanted = wanted.clone();
                wanted.sort_unstable();
                wanted.dedup();
                let is_there = |version: &u64| present.contains(version);
                let missing: Vec<u64> = wanted.iter().copied().filter(|v| !is_there(v)).collect();
                if missing.is_empty() {
                    Ok(wanted)
                } else {
                    Err(missing)
                }
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
        let cases: [(VersionPolicy, Result<&[u64], &[u64]>); 7] = [
            (VersionPolicy::default(), Ok(&[10])),
            (Latest(2), Ok(&[2, 10])),
            (Latest(9), Ok(&[1, 2, 10])),
            (All, Ok(&[1, 2, 10])),
            (Specific(vec![2, 1, 2]), Ok(&[1, 2])),
            (Specific(vec![10, 3, 1]), Err(&[3])),
            (Latest(u32::MAX), Ok(&[1, 2, 10])),
        ];
        for (policy, expected) in cases {
            let expected = expected.map(<[u64]>::to_vec).map_err(<[u64]>::to_vec);
            assert_eq!(policy.choose(&present), expected, "{policy:?}");
        }
    }
}
