//! Whether groups that plans have at once run side by side on an NVIDIA device: what is configured,
//! and what `fugato gpu-check` found on that machine.
//!
//! The check leaves a file in the model store for each device. It counts for that device, driver,
//! ONNX Runtime, cuDNN, cuBLAS and this program, since what it found is what nobody promises of
//! them.

use crate::config::PlanLanes;
use crate::gpu_check::{Part, Report, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The schema of a [`Checked`].
pub const SCHEMA: &str = "fugato.plan-lanes/1";

/// The parts of the check that must hold.
pub const PARTS: [Part; 3] = [Part::Capture, Part::Overlap, Part::Plans];

/// What was found holds for this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The device: its UUID, or its name and compute capability.
    pub gpu: String,
    /// The driver, where its build can be told.
    pub driver: Option<String>,
    /// ONNX Runtime: `onnxruntime 1.31.1`.
    pub runtime: Option<String>,
    /// cuDNN and cuBLAS, where they can be asked.
    pub libraries: Option<String>,
    /// This program's version.
    pub fugato: Option<String>,
}

impl Machine {
    /// A device that was found, with a runtime and the vendor's libraries.
    #[cfg(feature = "cuda")]
    pub fn of(
        found: &fugato_device::cuda::Found,
        runtime: Option<String>,
        libraries: Option<String>,
    ) -> Self {
        let (major, minor) = found.compute_capability;
        let named = || format!("{}, compute capability {major}.{minor}", found.name);
        let build = found.driver_build.as_deref();
        let driver = |build| format!("{build} (CUDA {})", found.driver);
        Self {
            gpu: found.uuid.clone().unwrap_or_else(named),
            driver: build.map(driver),
            runtime,
            libraries,
            fugato: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    /// Where what was found on it is kept.
    fn file(&self, store: &Path) -> PathBuf {
        let plain = |one: char| {
            if one.is_ascii_alphanumeric() {
                one
            } else {
                '-'
            }
        };
        let gpu: String = self.gpu.chars().map(plain).collect();
        store.join(format!("plan-lanes-{gpu}.json"))
    }
}

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Where.
    pub machine: Machine,
    /// The answers of [`PARTS`] by name.
    pub answers: BTreeMap<String, Verdict>,
}

impl Checked {
    /// What these reports say of a machine; `None` where they leave what was known as it is:
    /// not all of [`PARTS`] hold, and none fails.
    pub fn of(machine: Machine, reports: &[Report]) -> Option<Self> {
        let named = |part: Part| reports.iter().find(|report| report.part == part.name());
        let found = PARTS.into_iter().filter_map(named);
        let answers: BTreeMap<_, _> = found
            .map(|report| (report.part.clone(), report.verdict))
            .collect();
        let fails = answers.values().any(|&answer| answer == Verdict::Fails);
        let checked = Self {
            schema: SCHEMA.to_owned(),
            machine,
            answers,
        };
        (checked.holds() || fails).then_some(checked)
    }

    /// The first part that does not hold.
    fn obstacle(&self) -> Option<(Part, Option<Verdict>)> {
        let answer = |part: Part| (part, self.answers.get(part.name()).copied());
        let mut answers = PARTS.into_iter().map(answer);
        answers.find(|(_, answer)| *answer != Some(Verdict::Holds))
    }

    /// Whether groups may run side by side there.
    pub fn holds(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Keeps it in a model store, and says what `plan_lanes` at `auto` comes to there, as the
    /// server decides that.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn settle(&self, store: &Path) -> io::Result<String> {
        let path = self.keep(store)?;
        let path = path.display();
        let Decision { on, why } = decide(PlanLanes::Auto, &self.machine, Some(store));
        let auto = "run side by side with `plan_lanes` at `auto`";
        Ok(match on {
            true => format!("Groups of plans {auto}: {path}"),
            false => format!("Groups of plans do not {auto}, since {why}: {path}"),
        })
    }

    /// Keeps it in a model store, in place of what was found before; answers where.
    ///
    /// # Errors
    /// Where the store cannot be written.
    fn keep(&self, store: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(store)?;
        let path = self.machine.file(store);
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        // Whoever reads it meanwhile finds one or the other.
        let draft = tempfile::NamedTempFile::new_in(store)?;
        std::fs::write(draft.path(), text + "\n")?;
        // The server may be another user's.
        let everybody = std::fs::Permissions::from_mode(0o644);
        draft.as_file().set_permissions(everybody)?;
        draft.persist(&path).map_err(|error| error.error)?;
        Ok(path)
    }
}

/// Whether groups run side by side, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether they do, where a leg can be captured.
    pub on: bool,
    /// As configured, or what was found.
    pub why: String,
}

/// Decides as configured, by what is kept in the model store.
pub fn decide(wanted: PlanLanes, machine: &Machine, store: Option<&Path>) -> Decision {
    match wanted {
        PlanLanes::On => Decision {
            on: true,
            why: "as configured".to_owned(),
        },
        PlanLanes::Off => Decision {
            on: false,
            why: "as configured".to_owned(),
        },
        PlanLanes::Auto => match look(machine, store) {
            Ok(()) => Decision {
                on: true,
                why: "`fugato gpu-check` found that they do so well here".to_owned(),
            },
            Err(why) => Decision { on: false, why },
        },
    }
}

/// Why not, as far as the model store knows.
fn look(machine: &Machine, store: Option<&Path>) -> Result<(), String> {
    const UNTRIED: &str = "`fugato gpu-check` has not tried it on this device";
    let path = store.ok_or("there is no model store")?;
    let path = machine.file(path);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(UNTRIED.to_owned()),
        Err(error) => return Err(format!("`{}` cannot be read: {error}", path.display())),
    };
    let checked: Checked = serde_json::from_str(&text)
        .map_err(|error| format!("`{}` is not what was written: {error}", path.display()))?;
    if checked.schema != SCHEMA {
        let found = &checked.schema;
        return Err(format!(
            "`{}` has schema `{found}`, expected `{SCHEMA}`",
            path.display()
        ));
    }
    let then = &checked.machine;
    let differs = |what, then: &str, now: &str| {
        let words = format!("`fugato gpu-check` tried it with {what} {then}, this is {now}");
        if then == now { Ok(()) } else { Err(words) }
    };
    differs("device", &then.gpu, &machine.gpu)?;
    for (what, then, now) in [
        ("driver", &then.driver, &machine.driver),
        ("runtime", &then.runtime, &machine.runtime),
        ("libraries", &then.libraries, &machine.libraries),
        ("fugato", &then.fugato, &machine.fugato),
    ] {
        match (then, now) {
            (Some(then), Some(now)) => differs(what, then, now)?,
            // A part that fails does so whatever else it was.
            (None, _) if !checked.holds() => {}
            (_, None) => return Err(format!("which {what} this is cannot be told: untried")),
            (None, Some(_)) => {
                return Err(format!(
                    "`fugato gpu-check` could not tell its {what}: untried"
                ));
            }
        }
    }
    match checked.obstacle() {
        None => Ok(()),
        Some((part, answer)) => Err(format!(
            "part `{}` of `fugato gpu-check` {}",
            part.name(),
            match answer {
                Some(Verdict::Fails) => "says no",
                Some(Verdict::Holds | Verdict::Unknown) | None => "did not come to its end",
            }
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            gpu: "GPU-1a/b".to_owned(),
            driver: Some("580.65.06 (CUDA 13.0)".to_owned()),
            runtime: Some("onnxruntime 1.31.1".to_owned()),
            libraries: Some("cuDNN 91002, cuBLAS 13.1.0".to_owned()),
            fugato: Some("0.1.0".to_owned()),
        }
    }

    fn reports(answers: &[(Part, Verdict)]) -> Vec<Report> {
        let report = |&(part, verdict): &(Part, Verdict)| Report::new(part, verdict, "so");
        answers.iter().map(report).collect()
    }

    fn all(plans: Verdict) -> Vec<Report> {
        reports(&[
            (Part::Device, Verdict::Holds),
            (Part::Capture, Verdict::Holds),
            (Part::Overlap, Verdict::Holds),
            (Part::Plans, plans),
        ])
    }

    #[test]
    fn auto_is_on_only_where_all_parts_hold_on_this_machine() {
        let store = tempfile::tempdir().expect("a folder");
        let store = store.path().join("models");
        let why = |machine: &Machine| {
            let Decision { on, why } = decide(PlanLanes::Auto, machine, Some(&store));
            assert!(!on);
            why
        };
        assert!(why(&machine()).contains("has not tried it on this device"));
        // Part `plans` did not come so far as to name them.
        let bare = Machine {
            runtime: None,
            libraries: None,
            ..machine()
        };
        for tried in [machine(), bare] {
            let checked = Checked::of(tried, &all(Verdict::Fails)).expect("it fails");
            assert!(!checked.holds());
            checked.keep(&store).expect("it can be written");
            let expected = "part `plans` of `fugato gpu-check` says no";
            assert!(why(&machine()).contains(expected), "{}", why(&machine()));
        }
        let checked = Checked::of(machine(), &all(Verdict::Holds)).expect("all were tried");
        assert!(checked.holds());
        let path = checked.keep(&store).expect("it can be written");
        assert_eq!(path.file_name().expect("one"), "plan-lanes-GPU-1a-b.json");
        let mode = std::fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o644, "others may read it");
        assert!(decide(PlanLanes::Auto, &machine(), Some(&store)).on);
        let others = [
            Machine {
                driver: Some("590 (CUDA 13.1)".to_owned()),
                ..machine()
            },
            Machine {
                runtime: Some("onnxruntime 1.32.0".to_owned()),
                ..machine()
            },
            Machine {
                libraries: Some("cuDNN 91100, cuBLAS 13.1.0".to_owned()),
                ..machine()
            },
            Machine {
                fugato: Some("0.2.0".to_owned()),
                ..machine()
            },
            Machine {
                driver: None,
                ..machine()
            },
            Machine {
                libraries: None,
                ..machine()
            },
            Machine {
                gpu: "GPU-2".to_owned(),
                ..machine()
            },
            // Of the same file.
            Machine {
                gpu: "GPU-1a-b".to_owned(),
                ..machine()
            },
        ];
        let expected = [
            "580.65.06 (CUDA 13.0), this is 590",
            "onnxruntime 1.31.1, this is onnxruntime 1.32.0",
            "cuDNN 91002, cuBLAS 13.1.0, this is cuDNN 91100",
            "fugato 0.1.0, this is 0.2.0",
            "which driver this is cannot be told",
            "which libraries this is cannot be told",
            "has not tried",
            "GPU-1a/b, this is GPU-1a-b",
        ];
        for (other, expected) in others.iter().zip(expected) {
            assert!(why(other).contains(expected), "{}", why(other));
        }
        let unnamed = Machine {
            driver: None,
            ..machine()
        };
        let checked = Checked::of(unnamed, &all(Verdict::Holds)).expect("all hold");
        checked.keep(&store).expect("it can be written");
        assert!(why(&machine()).contains("could not tell its driver"));
        std::fs::write(&path, "{}").expect("it can be written");
        assert!(why(&machine()).contains("is not what was written"));
        assert!(!decide(PlanLanes::Auto, &machine(), None).on);
    }

    #[test]
    fn the_check_says_what_the_server_then_decides() {
        let store = tempfile::tempdir().expect("a folder");
        let told = |machine: &Machine, reports: &[Report]| {
            let checked = Checked::of(machine.clone(), reports).expect("all were tried");
            let told = checked.settle(store.path()).expect("it can be written");
            let decided = decide(PlanLanes::Auto, machine, Some(store.path()));
            assert_eq!(
                told.contains("plans run side by side"),
                decided.on,
                "{told}"
            );
            assert_eq!(told.contains("plans do not run"), !decided.on, "{told}");
            assert!(decided.on || told.contains(&decided.why), "{told}");
            assert!(told.contains("plan-lanes-GPU-1a-b.json"), "{told}");
            told
        };
        told(&machine(), &all(Verdict::Holds));
        assert!(told(&machine(), &all(Verdict::Fails)).contains("`plans`"));
        // All parts hold, and the server could not tell that it is this machine.
        for (what, unnamed) in [
            (
                "driver",
                Machine {
                    driver: None,
                    ..machine()
                },
            ),
            (
                "libraries",
                Machine {
                    libraries: None,
                    ..machine()
                },
            ),
        ] {
            let told = told(&unnamed, &all(Verdict::Holds));
            assert!(told.contains(&format!("which {what} this is")), "{told}");
        }
        let bare = Machine {
            runtime: None,
            libraries: None,
            ..machine()
        };
        assert!(told(&bare, &all(Verdict::Fails)).contains("says no"));
    }

    #[test]
    fn what_is_configured_needs_no_check() {
        assert!(decide(PlanLanes::On, &machine(), None).on);
        assert!(!decide(PlanLanes::Off, &machine(), None).on);
    }

    #[test]
    fn some_parts_change_what_is_known_only_where_they_fail() {
        let of = |answers: &[(Part, Verdict)]| Checked::of(machine(), &reports(answers));
        assert_eq!(of(&[(Part::Plans, Verdict::Holds)]), None);
        assert_eq!(of(&[(Part::Capture, Verdict::Unknown)]), None);
        assert_eq!(Checked::of(machine(), &all(Verdict::Unknown)), None);
        assert_eq!(of(&[(Part::Zoo, Verdict::Fails)]), None);
        let checked = of(&[(Part::Overlap, Verdict::Fails)]).expect("it fails");
        assert!(!checked.holds());
    }
}
