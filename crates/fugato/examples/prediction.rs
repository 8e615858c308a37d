//! How well a server predicted: replays a recording (`fugato serve --record`) and sets what
//! was predicted of each served leg, before its time was known, against what the legs of
//! its model and batch took.
//!
//! ```text
//! cargo run --release -p fugato --example prediction -- RECORDING
//! ```
//!
//! For each model and batch of at least [`LEGS_MIN`] legs it prints the measured median and
//! 95th percentile, and the part of the legs whose predicted 95th percentile was within
//! 15 % of the measured one; then that part over all of them. Legs of rarer batches have no
//! 95th percentile to compare with; they are counted and left out.

use fugato_core::driver::{RecordedInputs, RecordingFooter, RecordingHeader};
use fugato_core::profile::{
    Demand, Judged, LatencyModel, ModelProfile, OnlineQuantiles, Prediction, Source, Standing,
    SurfacePoint,
};
use fugato_core::sched::{Input, ModelSpec, Scheduler};
use fugato_core::{BatchSize, ModelId, Nanos, Share};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Mutex};

/// The fewest legs that have a 95th percentile: three are above it.
const LEGS_MIN: usize = 60;

/// How near a prediction must be.
const WITHIN: f64 = 0.15;

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header(RecordingHeader),
    Inputs(RecordedInputs),
    #[expect(dead_code, reason = "a recording may end with it")]
    Footer(RecordingFooter),
}

/// A leg: where it ran, how long, and what had been predicted of that.
#[derive(Clone, Copy, Debug)]
struct Leg {
    point: SurfacePoint,
    took: Nanos,
    /// What was predicted of the 95th percentile, and what the online estimate alone says.
    tail: Option<Nanos>,
    tail_online: Option<Nanos>,
    from_profile: bool,
}

/// The server's own latency model, with what it said before each time.
#[derive(Debug, Default)]
struct Noted {
    judged: Judged,
    online: OnlineQuantiles,
    legs: Arc<Mutex<Vec<Leg>>>,
}

impl LatencyModel for Noted {
    fn predict(&self, point: SurfacePoint, quantile: f64) -> Option<Prediction> {
        self.judged.predict(point, quantile)
    }

    fn best_batch(
        &self,
        model: ModelId,
        share: Share,
        max_batch: BatchSize,
        within: Nanos,
    ) -> Option<BatchSize> {
        self.judged.best_batch(model, share, max_batch, within)
    }

    fn observe(&mut self, point: SurfacePoint, took: Nanos) {
        let time = |known: Option<Prediction>| known.map(|known| known.time);
        let standing = self.judged.standing(point.model);
        let leg = Leg {
            point,
            took,
            tail: time(self.judged.predict(point, 0.95)),
            tail_online: time(self.online.predict(point, 0.95)),
            from_profile: standing.is_some_and(|known| known.tail == Source::Profile),
        };
        self.legs.lock().expect("nobody panics with it").push(leg);
        self.judged.observe(point, took);
        self.online.observe(point, took);
    }

    fn learn(&mut self, model: ModelId, profile: &ModelProfile, slices: Share) {
        self.judged.learn(model, profile, slices);
    }

    fn demand(&self, model: ModelId) -> Option<Demand> {
        self.judged.demand(model)
    }

    fn standing(&self, model: ModelId) -> Option<Standing> {
        self.judged.standing(model)
    }

    fn forget(&mut self, model: ModelId) {
        self.judged.forget(model);
        self.online.forget(model);
    }
}

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1);
    let path = path.ok_or_else(|| anyhow::anyhow!("name a recording"))?;
    let mut lines = BufReader::new(std::fs::File::open(path)?).lines();
    let first = lines
        .next()
        .ok_or_else(|| anyhow::anyhow!("it is empty"))??;
    let Line::Header(header) = serde_json::from_str(&first)? else {
        anyhow::bail!("its first line is no header");
    };
    let noted = Noted::default();
    let legs = Arc::clone(&noted.legs);
    let mut scheduler = Scheduler::with_latency_model(header.config, Box::new(noted));
    let mut names: BTreeMap<ModelId, String> = BTreeMap::new();
    for line in lines {
        let Line::Inputs(RecordedInputs { at, inputs }) = serde_json::from_str(&line?)? else {
            break;
        };
        for input in inputs {
            if let Input::ModelAdded(ModelSpec { id, name, .. }) = &input {
                names.insert(*id, name.clone());
            }
            scheduler.handle(at, input);
        }
        while scheduler.poll_action().is_some() {}
    }
    drop(scheduler);
    let legs = legs.lock().expect("nobody panics with it");
    report(&legs, &names)
}

fn report(legs: &[Leg], names: &BTreeMap<ModelId, String>) -> anyhow::Result<()> {
    let mut groups: BTreeMap<(ModelId, BatchSize, Share), Vec<Leg>> = BTreeMap::new();
    for leg in legs {
        let place = (leg.point.model, leg.point.batch, leg.point.share);
        groups.entry(place).or_default().push(*leg);
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| model | batch | share | legs | median ms | p95 ms | by profile | p95 within 15 % | online alone |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    let (mut judged, mut good, mut good_online, mut rare) = (0, 0, 0, 0);
    for ((model, batch, share), legs) in groups {
        if legs.len() < LEGS_MIN {
            rare += legs.len();
            continue;
        }
        let mut took: Vec<f64> = legs.iter().map(|leg| leg.took.as_millis_f64()).collect();
        took.sort_by(f64::total_cmp);
        let (median, tail) = (took[took.len() / 2], took[took.len() * 95 / 100]);
        let near = |known: Option<Nanos>| {
            known.is_some_and(|known| (known.as_millis_f64() - tail).abs() <= WITHIN * tail)
        };
        let within = legs.iter().filter(|leg| near(leg.tail)).count();
        let within_online = legs.iter().filter(|leg| near(leg.tail_online)).count();
        let by_profile = legs.iter().filter(|leg| leg.from_profile).count();
        let part = |count: usize| 100.0 * count as f64 / legs.len() as f64;
        writeln!(
            out,
            "| {} | {} | {} | {} | {median:.2} | {tail:.2} | {:.0} % | {:.1} % | {:.1} % |",
            names.get(&model).map_or("?", String::as_str),
            batch.0,
            share.0,
            legs.len(),
            part(by_profile),
            part(within),
            part(within_online),
        )?;
        judged += legs.len();
        good += within;
        good_online += within_online;
    }
    let part =
        |count: usize| 100.0 * count as f64 / f64::from(u32::try_from(judged).unwrap_or(1).max(1));
    writeln!(
        out,
        "\n{judged} legs: the predicted 95th percentile is within 15 % of the measured one for {:.1} % \
         (online estimate alone: {:.1} %); {rare} legs of rarer batches left out.",
        part(good),
        part(good_online),
    )?;
    Ok(())
}
