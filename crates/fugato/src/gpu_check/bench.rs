//! What the parts have in common: models, inputs, and times by the device's clock.

use super::Setup;
use super::inputs::{RECIPE, push};
use anyhow::Context;
use fugato_device::Runtime;
use fugato_device::cuda::{
    CudaLibraries, CudaModel, CudaModelOptions, Driver, Event, Executable, Gpu, Partition, Stream,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Runs before a capture: the runtime allocates in the second run of a shape, and a third
/// shows that it is done.
const WARM_UP: usize = 3;

/// A device with ONNX Runtime on it.
pub(super) struct Bench {
    setup: Setup,
    pub(super) driver: Driver,
    pub(super) gpu: Arc<Gpu>,
    runtime: Arc<Runtime>,
    pub(super) libraries: CudaLibraries,
}

impl Bench {
    pub(super) fn open(setup: &Setup) -> anyhow::Result<Self> {
        let driver = Driver::find()?;
        let gpu = Gpu::open(driver, setup.device)?;
        let libraries = CudaLibraries::load(&setup.libraries)?;
        let runtime = Runtime::load(&setup.onnxruntime)?;
        Ok(Self {
            setup: setup.clone(),
            driver,
            gpu,
            runtime,
            libraries,
        })
    }

    pub(super) fn runtime_version(&self) -> &str {
        self.runtime.version()
    }

    /// The file of a model of the zoo, written where it is not there yet.
    pub(super) fn model_file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let mut quiet = |_: fugato_zoo::Progress<'_>| {};
        let written =
            fugato_zoo::write_repository(&self.setup.models, &[name], RECIPE, &mut quiet)?;
        let written = written.into_iter().next();
        Ok(written.context("one model was asked for")?.path)
    }

    /// A model of the zoo on a stream, with random inputs.
    pub(super) fn load(
        &self,
        name: &str,
        batch: u32,
        stream: &Arc<Stream>,
    ) -> anyhow::Result<CudaModel> {
        let options = CudaModelOptions {
            batch,
            other: u32::try_from(fugato_zoo::TYPICAL_SEQUENCE)?,
            tf32: false,
            nhwc: false,
        };
        let path = self.model_file(name)?;
        let mut model = CudaModel::load(&self.runtime, &path, stream, options)
            .with_context(|| format!("{name} at batch {batch}"))?;
        self.feed(name, &mut model, 0)?;
        Ok(model)
    }

    /// Gives a model the inputs of a seed.
    pub(super) fn feed(&self, name: &str, model: &mut CudaModel, seed: u64) -> anyhow::Result<()> {
        let zoo = fugato_zoo::find(name).context("a model of the zoo")?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (index, input) in zoo.inputs().iter().enumerate() {
            let port = model.inputs()[index].clone();
            let elements: u64 = port.shape.iter().product();
            let mut bytes = Vec::with_capacity(port.bytes());
            for _ in 0..elements {
                push(&mut bytes, port.element, input.values, &mut rng)?;
            }
            model.write(index, &bytes)?;
        }
        Ok(())
    }

    /// A model that has run often enough to be captured.
    pub(super) fn warm(
        &self,
        name: &str,
        batch: u32,
        stream: &Arc<Stream>,
    ) -> anyhow::Result<CudaModel> {
        let mut model = self.load(name, batch, stream)?;
        for _ in 0..WARM_UP {
            model
                .run()
                .with_context(|| format!("{name} at batch {batch}"))?;
        }
        Ok(model)
    }

    /// A graph of a model of the zoo, ready to run.
    pub(super) fn graph(
        &self,
        name: &str,
        batch: u32,
        stream: &Arc<Stream>,
    ) -> anyhow::Result<Executable> {
        let executable = self.warm(name, batch, stream)?.capture()?.instantiate()?;
        executable.upload(stream)?;
        stream.synchronize()?;
        Ok(executable)
    }

    /// The whole device as a partition.
    pub(super) fn whole(&self) -> anyhow::Result<Arc<Partition>> {
        Ok(Partition::new(&self.gpu, &self.gpu.whole()?, 0, 1)?)
    }

    /// `count` disjoint partitions of equal size, as large as there can be.
    pub(super) fn parts(&self, count: u32) -> anyhow::Result<Vec<Arc<Partition>>> {
        let info = self.gpu.info();
        let step = info.sms_alignment.max(info.sms_least).max(1);
        let sms = (info.sms / count) / step * step;
        let groups = self.gpu.split(sms)?;
        let found = groups.sms().len();
        anyhow::ensure!(
            found >= count as usize,
            "{count} groups of {sms} multiprocessors were asked for, found {found}"
        );
        (0..count as usize)
            .map(|index| Ok(Partition::new(&self.gpu, &groups, index, 1)?))
            .collect()
    }

    /// How long what `enqueue` puts on the stream takes there: the times of `rounds` rounds, in
    /// ascending order.
    pub(super) fn times(
        &self,
        stream: &Stream,
        rounds: usize,
        mut enqueue: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Duration>> {
        let (from, to) = (Event::new(&self.gpu)?, Event::new(&self.gpu)?);
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            stream.record(&from)?;
            enqueue()?;
            stream.record(&to)?;
            to.synchronize()?;
            times.push(to.elapsed(&from)?);
        }
        times.sort_unstable();
        Ok(times)
    }

    /// The median time of a graph on a stream.
    pub(super) fn time(&self, graph: &Executable, stream: &Stream) -> anyhow::Result<Duration> {
        let times = self.times(stream, 30, || Ok(graph.launch(stream)?))?;
        Ok(quantile(&times, 0.5))
    }
}

/// The quantile of times in ascending order, by nearest rank; of none, zero.
pub(super) fn quantile(times: &[Duration], quantile: f64) -> Duration {
    let rank = (quantile * times.len() as f64).ceil() as usize;
    let index = rank.clamp(1, times.len().max(1)) - 1;
    times.get(index).copied().unwrap_or_default()
}

/// Microseconds, to a tenth.
pub(super) fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<_> = (1..=4).map(Duration::from_micros).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_micros(2));
        assert_eq!(quantile(&times, 0.99), Duration::from_micros(4));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
