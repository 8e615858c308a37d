//! Models that are measured while serving, on each device, and what is kept of that.

use super::model::Repository;
use super::rig::Rig;
use super::told::{PATIENCE, Told, until};
use fugato_core::ModelId;
use fugato_core::profile::Profile;
use std::collections::BTreeSet;
use std::time::Instant;
use tokio::sync::oneshot::error::TryRecvError;

#[tokio::test]
async fn models_are_measured_on_their_own_devices() {
    let repository = Repository::new();
    repository.put_adder("main", 1, 1.0);
    repository.put_adder("beside", 1, 2.0);
    let toml = "[profile]\nonline_share = 0.5\n[model.beside]\ndevice = \"cpu\"\n";
    let rig = Rig::start(&repository, toml, &[]).await;
    let script = async |told: Told| {
        for (model, kind) in [("main", "picky"), ("beside", "cpu")] {
            let measured = async || {
                let profile = told.get(&format!("/v2/models/{model}/profile")).await;
                assert_eq!(profile["device"]["kind"], kind, "{profile}");
                let points = profile["serving"]["points"].as_u64();
                points > Some(0) && profile["serving"]["measuring"] == false
            };
            until("it is measured", measured).await;
        }
        let kept = async || {
            let files = std::fs::read_dir(&told.store).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let kept: BTreeSet<String> = names
                .filter(|name| name.starts_with("profile-") && name.ends_with(".json"))
                .filter_map(|name| Some(name.split('-').nth(1)?.to_owned()))
                .collect();
            kept == ["cpu".to_owned(), "picky".to_owned()].into()
        };
        until("each device has its profile", kept).await;
    };
    rig.run(script).await.expect("it drains");
}

/// What ends a server may come right after the last run, before anything of it is kept.
#[tokio::test]
async fn what_was_measured_before_the_end_is_kept() {
    let repository = Repository::new();
    repository.put_adder("m", 1, 1.0);
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("kept.json");
    let toml = format!("[profile]\nonline_share = 0.5\nsave = {save:?}\n");
    let rig = Rig::start(&repository, &toml, &[]).await;
    let mailbox = rig.mailbox();
    let script = async |_told: Told| {
        // Nothing else of the server runs meanwhile: it has this thread alone.
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut asked = mailbox.ask(|scheduler| scheduler.is_measured_whole(ModelId(0)));
            let whole = loop {
                match asked.try_recv() {
                    Ok(whole) => break whole,
                    Err(TryRecvError::Empty) => std::thread::yield_now(),
                    Err(TryRecvError::Closed) => panic!("the driver has ended"),
                }
            };
            if whole {
                break;
            }
            assert!(Instant::now() < patience, "it is not measured");
        }
    };
    rig.run(script).await.expect("it drains");
    let kept = std::fs::read(&save).expect("a profile is kept");
    let kept: Profile = serde_json::from_slice(&kept).unwrap();
    assert!(
        matches!(&kept.models[..], [model] if !model.unfinished),
        "{kept:?}"
    );
}
