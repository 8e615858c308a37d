//! Measured times of segments, kept on disk beside the parts of their model.
//!
//! A file is of one model, device, runtime, share, batch and shape of the inputs; within it a
//! time is known by the hash of its segment, so plans that cut alike measure once, and a
//! measurement that was stopped goes on where it was. Whatever cannot be read is measured anew.

use fugato_core::Nanos;
use fugato_core::plan::PlanKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The schema of the file.
const SCHEMA: &str = "fugato.times/2";

/// What the model as it is goes by.
pub(super) const WHOLE: &str = "whole";

/// Times by what was timed.
pub(super) struct TimesFile {
    path: PathBuf,
    held: Times,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Times {
    schema: String,
    key: PlanKey,
    /// The shapes of the inputs of one item.
    inputs: Vec<Vec<u64>>,
    #[serde(rename = "times_ns")]
    times: BTreeMap<String, Nanos>,
}

impl TimesFile {
    /// What is known in `folder` for this key and these inputs; nothing where it is to be
    /// measured `fresh`.
    pub(super) fn open(folder: &Path, key: &PlanKey, inputs: Vec<Vec<u64>>, fresh: bool) -> Self {
        let dims = inputs.iter().map(|dims| {
            let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
            dims.join("x")
        });
        let dims: Vec<String> = dims.collect();
        let mut name = format!("times-{}-{}-{}", key.share.0, key.batch.0, dims.join("_"));
        // File systems want short names; what tells files apart is checked inside.
        name.truncate(200);
        let path = folder.join(name + ".json");
        let blank = Times {
            schema: SCHEMA.to_owned(),
            key: key.clone(),
            inputs,
            times: BTreeMap::new(),
        };
        let known = (!fresh).then(|| std::fs::read(&path).ok()).flatten();
        let known = known.and_then(|text| serde_json::from_slice::<Times>(&text).ok());
        let known = known.filter(|known| {
            (&known.schema, &known.key, &known.inputs) == (&blank.schema, &blank.key, &blank.inputs)
        });
        Self {
            path,
            held: known.unwrap_or(blank),
        }
    }

    /// The time of what goes by `name`.
    pub(super) fn get(&self, name: &str) -> Option<Nanos> {
        self.held.times.get(name).copied()
    }

    /// Notes a time; [`TimesFile::save`] keeps it.
    pub(super) fn insert(&mut self, name: &str, time: Nanos) {
        self.held.times.insert(name.to_owned(), time);
    }

    /// Writes the file; others see it whole or not at all. One that cannot be written costs
    /// a measurement next time, and is said.
    pub(super) fn save(&self) {
        if let Err(error) = self.write() {
            let path = self.path.display();
            tracing::warn!(%path, %error, "measured times of segments are not kept");
        }
    }

    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &self.held)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::profile::DeviceKey;
    use fugato_core::{BatchSize, Share};

    #[test]
    fn times_are_kept_for_their_key_only() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let key = |runtime: &str| PlanKey {
            model: "00ff".to_owned(),
            device: DeviceKey {
                kind: "cpu".to_owned(),
                name: "cpu".to_owned(),
                slices: 2,
            },
            runtime: runtime.to_owned(),
            share: Share(1),
            batch: BatchSize(1),
        };
        let open = |runtime: &str, side: u64, fresh| {
            TimesFile::open(folder.path(), &key(runtime), vec![vec![1, side]], fresh)
        };
        let mut file = open("one", 8, false);
        assert_eq!(file.get("a"), None);
        file.insert("a", Nanos::from_micros(3));
        file.save();
        assert_eq!(open("one", 8, false).get("a"), Some(Nanos::from_micros(3)));
        assert_eq!(open("other", 8, false).get("a"), None);
        assert_eq!(open("one", 9, false).get("a"), None);
        assert_eq!(open("one", 8, true).get("a"), None);
        let path = &file.path;
        std::fs::write(path, "not JSON").expect("it can be written");
        assert_eq!(open("one", 8, false).get("a"), None);
    }
}
